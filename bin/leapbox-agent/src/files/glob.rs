//! Matches the globs of entries that a listing excludes: `*` and `?` within a name, `[a-z]`, `[!a-z]`, and `**` across
//! directories. Pure. Called by `list`.

/// Whether a pattern matches an entry. A pattern without `/` is compared with the entry's name, one with `/` with its
/// path relative to the listed directory.
pub(super) fn matches(pattern: &str, relative: &str) -> bool {
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    if !pattern.contains('/') {
        return name_matches(pattern, relative.rsplit('/').next().unwrap_or(relative));
    }
    let mut pattern: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
    // `a/**` matches what is in `a`, and not `a` itself.
    if pattern.last() == Some(&"**") {
        pattern.insert(pattern.len() - 1, "*");
    }
    let names: Vec<&str> = relative.split('/').collect();
    wildcard(&pattern, &names, |part| *part == "**", |part, name| name_matches(part, name))
}

fn name_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<Token>, Vec<char>) = (tokens(pattern), name.chars().collect());
    wildcard(&pattern, &name, |token| matches!(token, Token::Star), Token::covers)
}

/// Matches a pattern whose star parts stand for any number of elements, in time proportional to the product of the
/// lengths.
fn wildcard<P, T>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, covers: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut position, mut retry) = (0, 0, None);
    while position < text.len() {
        match pattern.get(at) {
            Some(part) if is_star(part) => {
                retry = Some((at, position));
                at += 1;
            }
            Some(part) if covers(part, &text[position]) => {
                at += 1;
                position += 1;
            }
            // Letting the last star take one more element is enough. Going back to every star would take exponential
            // time for a caller's `a*a*a*…`.
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                at = star + 1;
                position = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(is_star)
}

enum Token {
    Star,
    Any,
    One(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn covers(&self, c: &char) -> bool {
        match self {
            Token::Star | Token::Any => true,
            Token::One(wanted) => wanted == c,
            Token::Set { negated, ranges } => ranges.iter().any(|(low, high)| (low..=high).contains(&c)) != *negated,
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut tokens = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let (token, len) = match chars[at] {
            '*' => (Token::Star, 1),
            '?' => (Token::Any, 1),
            '\\' if at + 1 < chars.len() => (Token::One(chars[at + 1]), 2),
            '[' => set(&chars[at..]).unwrap_or((Token::One('['), 1)),
            c => (Token::One(c), 1),
        };
        tokens.push(token);
        at += len;
    }
    tokens
}

/// Parses a set and returns it with its length in the pattern; `None` if it is not closed. As in a shell, a `]` right
/// at its start is a member of it.
fn set(chars: &[char]) -> Option<(Token, usize)> {
    let negated = matches!(chars.get(1), Some('!' | '^'));
    let start = 1 + usize::from(negated);
    let end = start + 1 + chars.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let members = &chars[start..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == '-' {
            ranges.push((members[at], members[at + 2]));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Token::Set { negated, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn the_table_of_patterns() {
        let table = [
            ("node_modules", "node_modules", true),
            ("node_modules", "a/b/node_modules", true),
            ("node_modules/", "a/node_modules", true),
            ("node_modules", "node_modules2", false),
            (".git", ".gitignore", false),
            ("*.pyc", "a/b.pyc", true),
            ("*.pyc", "b.py", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "x/anything", true),
            ("src/*.rs", "src/main.rs", true),
            ("src/*.rs", "src/deep/main.rs", false),
            ("src/**/*.rs", "src/a/b/main.rs", true),
            ("src/**/*.rs", "src/main.rs", true),
            ("**/target", "target", true),
            ("**/target", "a/b/target", true),
            ("build/**", "build", false),
            ("build/**", "build/a/b", true),
            ("/top", "top", true),
            ("/top", "a/top", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("ä?", "äö", true),
            ("", "a", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern:?} against {path:?}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_exponential_time() {
        assert!(!matches(&("a*".repeat(200) + "b"), &"a".repeat(2000)));
    }
}
