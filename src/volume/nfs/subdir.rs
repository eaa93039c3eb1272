//! The directory of a volume below its share, and the templates that name it.

use super::share::{MAX_PATH, flaw_of_component};
use crate::{
    error::{Error, Result},
    volume::id::Key,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// First component of the driver's own directories on a share.
pub const HOME: &str = ".wharf";

/// A directory below a share, never the share's root: relative, without empty components, `.`, `..` or
/// control characters, and not inside the driver's own directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Directory(String);

impl Directory {
    /// Every component must stand for a directory as it is written.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Invalid(format!("subDir {text:?} {why}")));
        if text.is_empty() {
            return refuse("is empty: a volume never is the root of its share");
        }
        if text.split('/').any(str::is_empty) {
            return refuse("has an empty component");
        }
        if let Some(why) = text.split('/').find_map(flaw_of_component) {
            return refuse(why);
        }
        // Without case: some servers know none.
        if text.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(HOME)) {
            return refuse("begins with .wharf, where the driver keeps its records");
        }
        if text.len() > MAX_PATH {
            return refuse("is longer than 1024 bytes");
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads what another driver or a person has written for a directory that is there already: slashes
    /// that say nothing are dropped. `None`: the root of the share.
    pub(super) fn parse_existing(text: &str) -> Result<Option<Self>> {
        let components: Vec<_> = text.split('/').filter(|part| !part.is_empty()).collect();
        if components.is_empty() { Ok(None) } else { Self::parse(&components.join("/")).map(Some) }
    }

    /// The path, relative to the share.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names, from the share downwards.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Directory {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Directory> for String {
    fn from(directory: Directory) -> Self {
        directory.0
    }
}

/// What the provisioner tells about claim and volume (`--extra-create-metadata`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `${pvc.metadata.name}`.
    pub pvc_name: Option<String>,
    /// `${pvc.metadata.namespace}`.
    pub pvc_namespace: Option<String>,
    /// `${pv.metadata.name}`.
    pub pv_name: Option<String>,
}

impl Metadata {
    /// Picks it out of parameters or a volume context; keys ignore case.
    pub fn of(parameters: &BTreeMap<String, String>) -> Self {
        let mut metadata = Self::default();
        for (key, value) in parameters {
            let slot = match key.to_ascii_lowercase().as_str() {
                "csi.storage.k8s.io/pvc/name" => &mut metadata.pvc_name,
                "csi.storage.k8s.io/pvc/namespace" => &mut metadata.pvc_namespace,
                "csi.storage.k8s.io/pv/name" => &mut metadata.pv_name,
                _ => continue,
            };
            *slot = Some(value.clone());
        }
        metadata
    }

    /// The directory of a volume whose class says nothing: the volume's name as csi-driver-nfs has it, or
    /// the key where there is no such name.
    pub fn default_directory(&self, key: Key) -> Result<Directory> {
        match &self.pv_name {
            Some(name) => Directory::parse(value("${pv.metadata.name}", name)?),
            None => Directory::parse(&key.to_string()),
        }
    }

    fn get(&self, variable: &str) -> Option<Option<&String>> {
        match variable {
            "pvc.metadata.name" => Some(self.pvc_name.as_ref()),
            "pvc.metadata.namespace" => Some(self.pvc_namespace.as_ref()),
            "pv.metadata.name" => Some(self.pv_name.as_ref()),
            _ => None,
        }
    }
}

/// One component or a part of one: a value that is empty or holds a slash would make another tree of it.
fn value<'a>(variable: &str, value: &'a str) -> Result<&'a str> {
    let why = match value {
        "" => "is empty",
        "." | ".." => "leads elsewhere",
        _ if value.contains('/') => "holds a slash",
        _ => return Ok(value),
    };
    Err(Error::Invalid(format!("{variable} {why}, so it cannot name a directory")))
}

/// A class's `subDir` with its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(&'static str),
}

const VARIABLES: [&str; 3] = ["pvc.metadata.name", "pvc.metadata.namespace", "pv.metadata.name"];

impl Template {
    /// One slash before and one after it say nothing. They are dropped here and not later: a variable that
    /// turns out empty must not vanish with them.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| Err(Error::Invalid(format!("subDir {text:?} {why}")));
        let mut rest = text.strip_prefix('/').unwrap_or(text);
        rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut parts = Vec::new();
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                return refuse("has a ${ without its }".into());
            };
            let Some(variable) = VARIABLES.into_iter().find(|known| *known == name) else {
                let known = VARIABLES.map(|known| format!("${{{known}}}")).join(", ");
                return refuse(format!("holds an unknown variable; known are {known}"));
            };
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(Part::Variable(variable));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        let template = Self(parts);
        // What is wrong whatever the variables are is said before any volume is asked for.
        template.fill(|_| Ok("x")).and_then(|filled| Directory::parse(&filled))?;
        Ok(template)
    }

    /// The directory of one volume.
    pub fn resolve(&self, metadata: &Metadata) -> Result<Directory> {
        let filled = self.fill(|variable| {
            let shown = format!("${{{variable}}}");
            match metadata.get(variable).flatten() {
                Some(text) => value(&shown, text),
                None => Err(Error::Invalid(format!(
                    "subDir needs {shown}, which the request does not carry; csi-provisioner sends it with \
                     --extra-create-metadata"
                ))),
            }
        })?;
        if filled.contains("${") {
            return Err(Error::Invalid(format!(
                "subDir {filled:?} still holds a ${{ after its variables were filled in"
            )));
        }
        Directory::parse(&filled)
    }

    fn fill<'a>(&'a self, mut variable: impl FnMut(&'static str) -> Result<&'a str>) -> Result<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Variable(name) => filled.push_str(variable(name)?),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::id::Name;
    use proptest::prelude::*;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        Metadata::of(
            &pairs.iter().map(|(k, v)| (format!("csi.storage.k8s.io/{k}"), (*v).to_owned())).collect(),
        )
    }

    fn resolve(template: &str, pairs: &[(&str, &str)]) -> Result<String> {
        Template::parse(template)?.resolve(&metadata(pairs)).map(String::from)
    }

    #[test]
    fn templates_are_filled_in() {
        let known = [("pvc/name", "claim"), ("PVC/Namespace", "space"), ("pv/name", "pvc-1")];
        for (template, directory) in [
            ("plain", "plain"),
            ("a/b", "a/b"),
            ("/a/", "a"),
            ("${pvc.metadata.namespace}/${pvc.metadata.name}", "space/claim"),
            ("x-${pvc.metadata.name}-${pv.metadata.name}.y", "x-claim-pvc-1.y"),
            ("$/{}/$pvc", "$/{}/$pvc"),
            ("a#b,c", "a#b,c"),
            (".wharfs/.wharf", ".wharfs/.wharf"),
        ] {
            assert_eq!(resolve(template, &known).unwrap(), directory);
        }
    }

    #[test]
    fn templates_that_are_refused_and_why() {
        for (template, why) in [
            ("", "root"),
            ("/", "root"),
            ("//", "root"),
            ("///", "empty component"),
            ("a//b", "empty component"),
            ("//a", "empty component"),
            (".", "elsewhere"),
            ("a/../b", "elsewhere"),
            ("../a", "elsewhere"),
            ("a/./b", "elsewhere"),
            (".wharf", "records"),
            ("/.wharf/volumes", "records"),
            (".WHARF", "records"),
            ("a\nb", "control"),
            ("a\0", "control"),
            ("${pvc.metadata.name", "without its }"),
            ("${}", "unknown variable; known are ${pvc.metadata.name}"),
            ("${.PVC.namespace}", "unknown variable"),
            ("${pvc.metadata.labels}", "unknown variable"),
            ("${PVC.metadata.name}", "unknown variable"),
            ("${pvc.metadata.namespace}", "--extra-create-metadata"),
        ] {
            let error = resolve(template, &[("pvc/name", "claim")]).unwrap_err().to_string();
            assert!(error.contains(why), "{template:?}: {error}");
        }
    }

    #[test]
    fn values_are_not_trusted() {
        for bad in ["", ".", "..", "a/b", "../x", "/", "a\0b", ".wharf", "${pv.metadata.name}", "a\n"] {
            let template = Template::parse("${pvc.metadata.name}").unwrap();
            assert!(
                matches!(template.resolve(&metadata(&[("pvc/name", bad)])), Err(Error::Invalid(_))),
                "{bad:?}"
            );
        }
        // Two that are harmless alone.
        let both = Template::parse("${pvc.metadata.name}${pvc.metadata.namespace}").unwrap();
        assert!(both.resolve(&metadata(&[("pvc/name", "$"), ("pvc/namespace", "{x}")])).is_err());
        assert!(both.resolve(&metadata(&[("pvc/name", ".w"), ("pvc/namespace", "harf")])).is_err());
        // An empty value must not turn the parent into the volume.
        assert!(resolve("a/${pvc.metadata.name}", &[("pvc/name", "")]).is_err());
        // Nor make one directory of many volumes.
        assert!(resolve("volume-${pvc.metadata.name}", &[("pvc/name", "")]).is_err());
    }

    #[test]
    fn without_a_template_the_volume_names_its_directory() {
        let key = Key::of(&Name::new("v").unwrap());
        assert_eq!(metadata(&[("pv/name", "pvc-7")]).default_directory(key).unwrap().as_str(), "pvc-7");
        assert_eq!(metadata(&[]).default_directory(key).unwrap().as_str(), key.to_string());
        assert!(metadata(&[("pv/name", "a/b")]).default_directory(key).is_err());
        assert!(metadata(&[("pv/name", ".wharf")]).default_directory(key).is_err());
    }

    #[test]
    fn directories_that_are_there_already() {
        let read = |text: &str| Directory::parse_existing(text).map(|d| d.map(String::from));
        assert_eq!(read("/a//b/").unwrap().as_deref(), Some("a/b"));
        assert_eq!(read("${pvc.metadata.name}").unwrap().as_deref(), Some("${pvc.metadata.name}"));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("//").unwrap(), None);
        assert!(read("a/../b").is_err() && read("/.wharf").is_err());
        assert_eq!(Directory::parse("a/b").unwrap().components().collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn no_template_leaves_the_share(
            template in "[a./$ {}]{0,8}(\\$\\{pvc\\.metadata\\.name\\})?[a./]{0,8}(\\$\\{pv\\.metadata\\.name\\})?[a./]{0,4}",
            pvc in "[a./$ {}\\x00]{0,6}", pv in "[a./$ {}\\n]{0,6}",
        ) {
            if let Ok(directory) = resolve(&template, &[("pvc/name", &pvc), ("pv/name", &pv)]) {
                let resolved = !directory.contains("${") && !directory.chars().any(char::is_control);
                prop_assert!(resolved, "{:?}", directory);
                prop_assert!(directory.split('/').all(|part| !matches!(part, "" | "." | "..")), "{directory}");
                prop_assert_eq!(String::from(Directory::parse(&directory).unwrap()), directory);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = (Template::parse(&text), Directory::parse(&text), Directory::parse_existing(&text));
        }
    }
}
