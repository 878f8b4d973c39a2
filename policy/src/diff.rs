//! What would a new revision of the policies change? By id; comments and layout do not count.

use std::fmt;

use crate::compile::{PolicySet, Rule};
use crate::text::printable;

/// The ids that differ between two sets, each list sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Only in the new set.
    pub added: Vec<String>,
    /// Only in the old set.
    pub removed: Vec<String>,
    /// In both, with another meaning or another `@reason`.
    pub changed: Vec<String>,
}

impl Diff {
    /// Whether both sets are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Compares two sets.
pub fn diff(old: &PolicySet, new: &PolicySet) -> Diff {
    let id = |rule: &Rule| rule.id.clone();
    let missing_in = |set: &PolicySet, rule: &&Rule| !set.rules.contains_key(&rule.id);
    let differs = |rule: &&Rule| old.rules.get(&rule.id).is_some_and(|before| before.canonical != rule.canonical);
    Diff {
        added: new.rules().filter(|rule| missing_in(old, rule)).map(id).collect(),
        removed: old.rules().filter(|rule| missing_in(new, rule)).map(id).collect(),
        changed: new.rules().filter(differs).map(id).collect(),
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no change");
        }
        let lines = [("+", &self.added), ("-", &self.removed), ("~", &self.changed)];
        let lines = lines.iter().flat_map(|(sign, ids)| ids.iter().map(move |id| format!("{sign} {}", printable(id))));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn set(text: &str) -> PolicySet {
        compile(&[("p".to_owned(), text.to_owned())]).unwrap()
    }

    #[test]
    fn layout_is_no_change_and_a_condition_is() {
        let old = set("@id(\"a\") permit(principal, action, resource == Resource::\"x\");\n\
                       @id(\"b\") forbid(principal, action, resource);");
        let same = set("@id(\"a\")   permit( principal, action, // why\n resource == Resource::\"x\" );\n\
                        @id(\"b\") forbid(principal, action, resource);");
        assert!(diff(&old, &same).is_empty());
        let new = set(
            "@id(\"a\") permit(principal, action, resource == Resource::\"x\") when { context.login_age_s < 1 };\n\
                       @id(\"c\") forbid(principal, action, resource);",
        );
        assert_eq!(diff(&old, &new).to_string(), "+ c\n- b\n~ a");
    }
}
