//! The guest's console. QEMU keeps the last of it in a ring that reading empties, so what was read is kept here.

use super::args::CONSOLE_BYTES;
use super::qmp::Qmp;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The console of one machine.
#[derive(Clone)]
pub(super) struct Console {
    qmp: Arc<Qmp>,
    tail: Arc<Mutex<String>>,
}

impl Console {
    pub fn new(qmp: Arc<Qmp>) -> Self {
        Self { qmp, tail: Arc::default() }
    }

    /// Its end, at most [`CONSOLE_BYTES`]. Of a QEMU that does not answer, what was read before.
    pub async fn tail(&self) -> String {
        let mut tail = self.tail.lock().await;
        let read = json!({"device": "console", "size": CONSOLE_BYTES, "format": "utf8"});
        if let Ok(Value::String(new)) = self.qmp.run("ringbuf-read", read).await {
            tail.push_str(&new);
            shorten(&mut tail, CONSOLE_BYTES as usize);
        }
        tail.clone()
    }
}

/// Cuts off the beginning of what is too long.
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
