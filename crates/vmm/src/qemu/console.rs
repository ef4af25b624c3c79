//! The end of the guest's console. QEMU keeps it in a ring buffer that is empty once it has been read, so the text that
//! was read is kept here.

use super::args::CONSOLE_BYTES;
use super::qmp::Qmp;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The console of one machine. Clones share the text.
#[derive(Clone)]
pub(super) struct Console {
    qmp: Arc<Qmp>,
    tail: Arc<Mutex<String>>,
}

impl Console {
    pub fn new(qmp: Arc<Qmp>) -> Self {
        Self { qmp, tail: Arc::default() }
    }

    /// The last output, at most [`CONSOLE_BYTES`]. If QEMU does not answer, it is what was read before.
    pub async fn tail(&self) -> String {
        // Locked across the command: two readers at once get pieces of the ring, which must be appended in their order.
        let mut tail = self.tail.lock().await;
        let read = json!({"device": "console", "size": CONSOLE_BYTES, "format": "utf8"});
        if let Ok(Value::String(new)) = self.qmp.run("ringbuf-read", read).await {
            tail.push_str(&new);
            shorten(&mut tail, CONSOLE_BYTES as usize);
        }
        tail.clone()
    }
}

/// Removes whole characters from the beginning until at most `most` bytes are left.
fn shorten(text: &mut String, most: usize) {
    let excess = text.len().saturating_sub(most);
    let start = (excess..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.drain(..start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_characters() {
        let mut text = "ääää".to_owned();
        shorten(&mut text, 5);
        assert_eq!(text, "ää");
        shorten(&mut text, 4);
        assert_eq!(text, "ää");
        shorten(&mut text, 0);
        assert_eq!(text, "");
    }
}
