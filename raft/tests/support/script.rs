//! Scripts: commands, and what they are expected to say.
//!
//! Blocks of a directive, perhaps some lines of input, a line `----`, and the output up to a blank line (or, when the
//! output itself has blank lines, between two doubled `----` lines). A directive is a command and arguments `key`,
//! `key=value` or `key=(value, value)`; a backslash at its end continues it. `#` begins a comment between blocks, and
//! `subtest` a name for what follows; neither has an output.
//! With `RINGRAFT_REWRITE=1` the expected outputs are rewritten: read the diff before you accept it.

use std::fmt::Write as _;
use std::path::Path;

/// One directive with its input.
#[derive(Clone, Debug, Default)]
pub struct Directive {
    pub line: usize,
    pub command: String,
    pub args: Vec<(String, Vec<String>)>,
    pub input: String,
}

impl Directive {
    /// Whether `key` is given, with values or without.
    pub fn has(&self, key: &str) -> bool {
        self.args.iter().any(|(name, _)| name == key)
    }

    /// Values of `key`, one after the other if it is given more than once.
    pub fn values(&self, key: &str) -> Vec<&str> {
        let given = self.args.iter().filter(|(name, _)| name == key);
        given.flat_map(|(_, values)| values.iter().map(String::as_str)).collect()
    }

    /// The value of `key`, if it is given; of several the last.
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let text = self.values(key).pop()?;
        Some(text.parse().unwrap_or_else(|_| panic!("line {}: {key}={text}", self.line)))
    }

    /// Values of `key` as numbers; empty if it is not given.
    pub fn numbers(&self, key: &str) -> Vec<u64> {
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("line {}: {text}", self.line));
        self.values(key).into_iter().map(number).collect()
    }

    /// Arguments that are bare numbers.
    pub fn ids(&self) -> Vec<u64> {
        let bare = self.args.iter().filter(|(_, values)| values.is_empty());
        bare.filter_map(|(key, _)| key.parse().ok()).collect()
    }

    fn parse(line: usize, text: &str) -> Directive {
        let (command, mut rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut args = Vec::new();
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                return Directive { line, command: command.into(), args, input: String::new() };
            }
            let end = rest.find([' ', '=']).unwrap_or(rest.len());
            let key = rest[..end].to_string();
            rest = &rest[end..];
            let Some(value) = rest.strip_prefix('=') else {
                args.push((key, Vec::new()));
                continue;
            };
            let length = if value.starts_with('(') { closing(value) } else { value.find(' ').unwrap_or(value.len()) };
            let text = &value[..length];
            let values = match text.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
                Some("") => Vec::new(),
                Some(inner) => split_commas(inner),
                None => vec![text.to_string()],
            };
            args.push((key, values));
            rest = &value[length..];
        }
    }
}

/// Length up to the parenthesis that closes the first one.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    panic!("no closing parenthesis in {text}");
}

fn split_commas(text: &str) -> Vec<String> {
    let (mut depth, mut from, mut values) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                values.push(text[from..at].trim_start_matches(' ').to_string());
                from = at + 1;
            }
            _ => {}
        }
    }
    values.push(text[from..].trim_start_matches(' ').to_string());
    values
}

/// Runs a script: `handle` gets each directive and says what comes of it. Panics at the first difference.
pub fn run(path: &Path, handle: impl FnMut(&Directive) -> String) {
    if let Err(difference) = check(path, handle) {
        panic!("{difference}");
    }
}

/// As [`run`], but tells the first difference. Only scripts of this crate are ever rewritten.
pub fn check(path: &Path, mut handle: impl FnMut(&Directive) -> String) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let own = path.starts_with(env!("CARGO_MANIFEST_DIR"));
    let rewrite = own && std::env::var_os("RINGRAFT_REWRITE").is_some();
    let mut rewritten = String::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        writeln!(rewritten, "{line}").unwrap();
        let mut head = line.trim().to_string();
        if head.is_empty() || head.starts_with('#') {
            continue;
        }
        while let Some(open) = head.strip_suffix('\\') {
            let (_, next) = lines.next().expect("a continued line");
            writeln!(rewritten, "{next}").unwrap();
            head = format!("{open} {}", next.trim());
        }
        // It only names what follows.
        if head.split(' ').next() == Some("subtest") {
            continue;
        }
        let mut directive = Directive::parse(at + 1, &head);
        for (_, line) in lines.by_ref() {
            writeln!(rewritten, "{line}").unwrap();
            if line == "----" {
                break;
            }
            directive.input += line;
            directive.input.push('\n');
        }
        directive.input = directive.input.trim().to_string();
        let mut expected = String::new();
        let doubled = lines.next_if(|(_, line)| *line == "----").is_some();
        while let Some((_, line)) = lines.next() {
            let ends = if doubled {
                line == "----" && lines.next_if(|(_, line)| *line == "----").is_some()
            } else {
                line.trim().is_empty()
            };
            if ends {
                break;
            }
            expected += line;
            expected.push('\n');
        }
        if doubled {
            lines.next_if(|(_, line)| line.trim().is_empty());
        }
        let mut found = handle(&directive);
        if !found.is_empty() && !found.ends_with('\n') {
            found.push('\n');
        }
        if !rewrite && found != expected {
            let place = format!("{}:{}", path.display(), at + 1);
            return Err(format!("{place}: {head}\n(- expected, + found)\n{}", diff(&expected, &found)));
        }
        let blank = found.lines().any(|line| line.trim().is_empty());
        let (open, close) = if blank || doubled { ("----\n", "----\n----\n") } else { ("", "") };
        writeln!(rewritten, "{open}{found}{close}").unwrap();
    }
    if rewrite {
        std::fs::write(path, rewritten.trim_end().to_string() + "\n").unwrap();
    }
    Ok(())
}

/// What differs, line by line: the longest common subsequence stays, the rest is marked.
fn diff(expected: &str, found: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let (mark, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            (' ', old[i - 1])
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            i += 1;
            ('-', old[i - 1])
        } else {
            j += 1;
            ('+', new[j - 1])
        };
        writeln!(text, "{mark} {line}").unwrap();
    }
    text
}
