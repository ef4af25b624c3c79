//! Makes text that a guest has chosen safe to print.

/// The beginning of a text from a guest as one line of at most `most` bytes, followed by `…` if it was cut, for the
/// log, an error's text or a metric's label. A guest may write anything, also a forged next line of the log, or a
/// sequence that a terminal takes for a command.
///
/// It is called where such a text is received, so that no later use can forget it, and never on a user's own data
/// (files, output of commands).
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for character in text.chars() {
        let before = line.len();
        // Quotes and backslashes stay as they are, because honest messages have them. The result is for reading, and
        // need not be unambiguous.
        if is_harmless(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
        // At a whole character, and never within an escape sequence, which would then say something else.
        if line.len() > most {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line
}

/// Whether a character can be printed as it is: it is no control character, ends no line, and does not change the
/// direction of the text after it (Unicode UAX #9).
fn is_harmless(character: char) -> bool {
    // A change of direction makes a line show its characters in another order than they are in ("Trojan Source",
    // CVE-2021-42574).
    let turns =
        matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_line = matches!(character, '\u{2028}' | '\u{2029}');
    !(character.is_control() || ends_line || turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_message_stays_as_it_is() {
        for message in
            [r#""FOO=" cannot be a variable's name"#, r"C:\x: no such file", "/tmp/ünïcode/日本: is a directory"]
        {
            assert_eq!(one_line(message, 1024), message);
        }
    }

    #[test]
    fn a_message_cannot_begin_a_line_of_its_own() {
        let forged = "x\r\n2026-11-29T00:00:00Z ERROR leapbox: forged\u{85}\u{2028}\u{2029}";
        assert_eq!(one_line(forged, 1024), r"x\r\n2026-11-29T00:00:00Z ERROR leapbox: forged\u{85}\u{2028}\u{2029}");
    }

    #[test]
    fn a_message_cannot_steer_a_terminal() {
        let steering = "\u{1b}[2J\u{9b}31m\u{7}\u{8}\0\u{202e}txt";
        assert_eq!(one_line(steering, 1024), r"\u{1b}[2J\u{9b}31m\u{7}\u{8}\u{0}\u{202e}txt");
    }

    #[test]
    fn a_message_is_cut_at_a_whole_character() {
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abcdef…");
        assert_eq!(one_line("abcdeü", 6), "abcde…");
        assert_eq!(one_line("abcde\n", 6), "abcde…", "nor within what an escaped one became");
        assert_eq!(one_line(&"\u{1b}".repeat(1 << 20), 1024).len(), 1020 + '…'.len_utf8());
    }
}
