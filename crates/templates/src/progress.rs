//! What `leapbox setup` shows while it works: every step says what it does and how long it took.
//!
//! On a terminal a step is a spinner with its last detail, elsewhere plain lines. Everything goes to standard error.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
enum Style {
    Terminal,
    Lines,
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    style: Style,
}

impl Progress {
    /// Spinners on a terminal, plain lines elsewhere.
    pub fn on_stderr() -> Self {
        let style = if std::io::stderr().is_terminal() { Style::Terminal } else { Style::Lines };
        Self { style }
    }

    /// Begins a step.
    pub fn step(&self, title: &str) -> Step {
        let bar = match self.style {
            Style::Terminal => spinner(title),
            Style::Lines => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        };
        Step { title: title.to_owned(), style: self.style, bar, started: Instant::now(), over: false }
    }
}

fn spinner(title: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(title.to_owned());
    // The template is a constant; should it ever be wrong, indicatif's own default is good enough.
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix}  {elapsed}  {wide_msg:.dim}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A step under way. Dropped without an end it counts as failed.
#[derive(Debug)]
pub struct Step {
    title: String,
    style: Style,
    bar: ProgressBar,
    started: Instant,
    over: bool,
}

impl Step {
    /// What is being done now, for the terminal only: there may be hundreds.
    pub(crate) fn detail(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// A part of the step worth a line of its own.
    pub(crate) fn note(&self, text: &str) {
        match self.style {
            Style::Terminal => self.bar.set_message(text.to_owned()),
            Style::Lines => eprintln!("  … {}: {text}", self.title),
        }
    }

    /// The step did its work.
    pub fn done(self, summary: &str) {
        let took = self.started.elapsed();
        self.end("✔", &format!("{summary} ({})", shown(took)));
    }

    /// There was nothing to do.
    pub fn unchanged(self, summary: &str) {
        self.end("✔", &format!("{summary} (unchanged)"));
    }

    fn end(mut self, mark: &str, summary: &str) {
        self.over = true;
        self.bar.finish_and_clear();
        eprintln!("  {mark} {}: {summary}", self.title);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.over {
            self.bar.finish_and_clear();
            eprintln!("  ✘ {}: failed after {}", self.title, shown(self.started.elapsed()));
        }
    }
}

fn shown(took: Duration) -> String {
    if took < Duration::from_secs(60) {
        return format!("{:.1} s", took.as_secs_f64());
    }
    HumanDuration(took).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_step_shows_tenths_of_a_second() {
        assert_eq!(shown(Duration::from_millis(1240)), "1.2 s");
    }
}
