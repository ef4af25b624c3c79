//! The progress that `leapbox setup` shows on standard error: every step, with the time that it took.
//!
//! On a terminal a step is a spinner with its latest detail; elsewhere (a log, CI) it is plain lines.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
enum Style {
    Terminal,
    Lines,
}

/// Shows the steps of a set-up.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    style: Style,
}

impl Progress {
    /// Shows spinners if standard error is a terminal, and plain lines otherwise.
    pub fn on_stderr() -> Self {
        let style = if std::io::stderr().is_terminal() { Style::Terminal } else { Style::Lines };
        Self { style }
    }

    /// Begins a step, which ends with [`Step::done`] or [`Step::unchanged`].
    pub fn step(&self, title: &str) -> Step {
        let bar = match self.style {
            Style::Terminal => spinner(title),
            Style::Lines => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        };
        Step { title: title.to_owned(), style: self.style, bar, started: Instant::now(), ended: false }
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

/// A step that has begun. If it is dropped before its end, an error has ended it, and it is shown as failed.
#[derive(Debug)]
pub struct Step {
    title: String,
    style: Style,
    bar: ProgressBar,
    started: Instant,
    ended: bool,
}

impl Step {
    /// Shows what is being done now, such as a command's last line of output.
    pub(crate) fn detail(&self, text: &str) {
        // On a terminal only, where it replaces the detail before it: a package manager has hundreds.
        self.bar.set_message(text.to_owned());
    }

    /// Shows a part of the step that takes long enough for a line of its own.
    pub(crate) fn note(&self, text: &str) {
        match self.style {
            Style::Terminal => self.bar.set_message(text.to_owned()),
            Style::Lines => eprintln!("  … {}: {text}", self.title),
        }
    }

    /// Ends the step: it has built or installed something.
    pub fn done(self, summary: &str) {
        let took = self.started.elapsed();
        self.end("✔", &format!("{summary} ({})", shown(took)));
    }

    /// Ends the step: there was nothing to do.
    pub fn unchanged(self, summary: &str) {
        self.end("✔", &format!("{summary} (unchanged)"));
    }

    fn end(mut self, mark: &str, summary: &str) {
        self.ended = true;
        self.bar.finish_and_clear();
        eprintln!("  {mark} {}: {summary}", self.title);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
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
