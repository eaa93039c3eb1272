//! Enough of Rust's syntax to see which paths a file names: no types, no macros expanded.

use std::collections::BTreeMap;

/// A word, `::`, a plain string with its quotes, or a single sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path as the file means it: aliases, `self` and `super` replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub path: Vec<String>,
    pub line: usize,
    pub imported: bool,
}

/// The code that ships, and the files that are tests alone.
pub struct Shipped {
    pub tokens: Vec<Token>,
    pub test_modules: Vec<String>,
}

/// Splits into tokens; comments and other literals vanish.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let start = at;
        let ahead = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
        at = match c {
            '/' if ahead(1) == '/' => end_of_line(&chars, at),
            '/' if ahead(1) == '*' => end_of_comment(&chars, at),
            '"' => {
                let end = end_of_string(&chars, at + 1);
                push(&mut found, &chars[at..end.min(chars.len())].iter().collect::<String>(), line, end)
            }
            'r' | 'b' | 'c' if raw_hashes(&chars, at).is_some() => end_of_raw(&chars, at),
            'b' | 'c' if ahead(1) == '"' => end_of_string(&chars, at + 2),
            '\'' if ahead(1) == '\\' => end_of_char(&chars, at + 3),
            '\'' if ahead(2) == '\'' => at + 3,
            ':' if ahead(1) == ':' => push(&mut found, "::", line, at + 2),
            _ if c.is_alphabetic() || c == '_' => {
                let end = word_end(&chars, at);
                push(&mut found, &chars[at..end].iter().collect::<String>(), line, end)
            }
            _ if c.is_whitespace() || c.is_numeric() => at + 1,
            _ => push(&mut found, &c.to_string(), line, at + 1),
        };
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn push(found: &mut Vec<Token>, text: &str, line: usize, next: usize) -> usize {
    found.push(Token { text: text.to_owned(), line });
    next
}

fn word_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| !chars[*i].is_alphanumeric() && chars[*i] != '_').unwrap_or(chars.len())
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn end_of_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0_usize, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn end_of_string(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn end_of_char(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |i| i + 1)
}

/// How many `#` a raw string that starts here has, if one does.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let r = (at..at + 2).find(|i| chars.get(*i) == Some(&'r'))?;
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(r + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_raw(chars: &[char], at: usize) -> usize {
    let hashes = raw_hashes(chars, at).unwrap_or(0);
    let open = (at..chars.len()).find(|i| chars[*i] == '"').unwrap_or(at);
    let closes = |i: &usize| chars[*i] == '"' && chars[*i + 1..].iter().take(hashes).all(|c| *c == '#');
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

/// Marks of items that no release build has.
const NOT_SHIPPED: [&[&str]; 2] = [
    &["#", "[", "cfg", "(", "test", ")", "]"],
    &["#", "[", "cfg", "(", "feature", "=", "\"failpoints\"", ")", "]"],
];

/// Leaves out every item under `#[cfg(test)]` or `#[cfg(feature = "failpoints")]`.
pub fn shipped(tokens: &[Token]) -> Shipped {
    let mut shipped = Shipped { tokens: Vec::new(), test_modules: Vec::new() };
    let mut at = 0;
    while at < tokens.len() {
        let Some(mark) = NOT_SHIPPED.iter().find(|mark| texts(tokens, at, mark)) else {
            shipped.tokens.push(tokens[at].clone());
            at += 1;
            continue;
        };
        let end = item_end(tokens, at + mark.len());
        let item = &tokens[at + mark.len()..end];
        if let Some(i) = item.iter().position(|t| t.text == "mod")
            && item.get(i + 2).is_some_and(|t| t.text == ";")
        {
            shipped.test_modules.push(item[i + 1].text.clone());
        }
        at = end;
    }
    shipped
}

/// Behind the item that starts at `at`: its `;`, or its block.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 => return i + 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Whether the tokens from `at` on read so.
pub fn texts(tokens: &[Token], at: usize, expected: &[&str]) -> bool {
    tokens.len() >= at + expected.len()
        && tokens[at..].iter().zip(expected).all(|(token, text)| token.text == *text)
}

/// Every path that the tokens of the module at `module` (such as `os::mount`) name.
pub fn paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let mut imports = Vec::new();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = import(tokens, at + 1, &[], &mut imports);
        } else if is_word(&tokens[at].text) {
            let (path, end) = path_at(tokens, at);
            if !texts(tokens, end, &["!"]) {
                plain.push((path, tokens[at].line));
            }
            at = end;
        } else {
            at += 1;
        }
    }
    let aliases: BTreeMap<String, Vec<String>> =
        imports.iter().map(|(name, path, _)| (name.clone(), absolute(path, module))).collect();
    let imported = imports.iter().map(|(_, path, line)| (absolute(path, module), *line, true));
    let used = plain.iter().map(|(path, line)| {
        let known = aliases.get(&path[0]).map(|start| [start, &path[1..]].concat());
        (known.unwrap_or_else(|| absolute(path, module)), *line, false)
    });
    imported.chain(used).map(|(path, line, imported)| Named { path, line, imported }).collect()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn path_at(tokens: &[Token], at: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[at].text.clone()];
    let mut end = at + 1;
    while texts(tokens, end, &["::"]) && tokens.get(end + 1).is_some_and(|t| is_word(&t.text)) {
        path.push(tokens[end + 1].text.clone());
        end += 2;
    }
    (path, end)
}

/// Reads one use-tree, adding (the name it binds, its path, the line); returns what stands behind it.
fn import(
    tokens: &[Token],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(String, Vec<String>, usize)>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while !texts(tokens, at, &["}"]) && at < tokens.len() {
                    at = import(tokens, at, &path, found);
                    at += usize::from(texts(tokens, at, &[","]));
                }
                return at + 1;
            }
            "as" => {
                let name = tokens.get(at + 1).map(|t| t.text.clone()).unwrap_or_default();
                found.push((name, path, token.line));
                return at + 2;
            }
            text if is_word(text) || text == "*" => {
                if text != "self" || path.is_empty() {
                    path.push(text.to_owned());
                }
                at += 1;
                if !texts(tokens, at, &["::"]) && !texts(tokens, at, &["as"]) {
                    let name = path.last().cloned().unwrap_or_default();
                    found.push((name, path, token.line));
                    return at;
                }
            }
            _ => return at + 1,
        }
    }
    at
}

/// `crate`, `self` and `super` written out; anything else is somebody else's crate or a local name.
fn absolute(path: &[String], module: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|s| *s == "super").count();
    let own = |start: &[String], rest: &[String]| [&["crate".to_owned()][..], start, rest].concat();
    match path[0].as_str() {
        "wharf" => own(&[], &path[1..]),
        "self" => own(module, &path[1..]),
        "super" => own(&module[..module.len().saturating_sub(supers)], &path[supers..]),
        _ => path.to_vec(),
    }
}
