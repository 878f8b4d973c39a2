//! Who can reach what? Every user and every resource through [`access`], once for all that no policy tells apart.
//!
//! Policies compare names and memberships and nothing else of a user or a resource. So users that no policy names and that are in
//! the same of the groups that some policy names are one class, and likewise resources: a decision for one is the
//! decision for all.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::{ACCESS_DECISIONS_MAX, ACCESS_EXAMPLES_MAX};

use crate::access::{Access, access};
use crate::compile::{PolicySet, Rule};
use crate::facts::Facts;
use crate::schema::Kind;
use crate::scope::{Scope, Side};
use crate::visible::is_named;

/// Everybody and everything, by name: users and workloads with their groups, resources with their tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Population {
    /// Users.
    pub users: BTreeMap<String, BTreeSet<String>>,
    /// Workloads; no name of theirs is a user's.
    pub workloads: BTreeMap<String, BTreeSet<String>>,
    /// Resources.
    pub resources: BTreeMap<String, BTreeSet<String>>,
}

/// There are more classes than may be decided at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are {0} pairs to decide for, more than at once: name one user or one resource")]
pub struct TooMany(pub usize);

/// One side of a population in classes.
struct Classes<'a> {
    /// By name and kind, the place of its class.
    of: BTreeMap<(&'a str, Kind), usize>,
    /// For each class how many there are in it, and its first.
    all: Vec<(u64, Member<'a>)>,
}

/// One of a population: its kind, its name, and all its memberships.
type Member<'a> = (Kind, &'a str, &'a BTreeSet<String>);

fn members(all: &BTreeMap<String, BTreeSet<String>>, kind: Kind) -> impl Iterator<Item = Member<'_>> {
    all.iter().map(move |(name, of)| (kind, name.as_str(), of))
}

impl Population {
    fn subjects(&self) -> impl Iterator<Item = Member<'_>> {
        members(&self.users, Kind::User).chain(members(&self.workloads, Kind::Workload))
    }
    fn things(&self) -> impl Iterator<Item = Member<'_>> {
        members(&self.resources, Kind::Resource)
    }
}

/// Of a subject and a resource, whatever the moment.
fn facts((kind, user, groups): Member<'_>, (_, resource, tags): Member<'_>) -> Facts {
    let known = Facts { groups: Some(groups.clone()), tags: Some(tags.clone()), ..Facts::of(user, resource) };
    if kind == Kind::Workload { known.of_workload() } else { known }
}

impl<'a> Classes<'a> {
    fn new(all: impl Iterator<Item = Member<'a>>, sets: &[&PolicySet], many: Kind) -> Self {
        let rules = || sets.iter().flat_map(|set| set.rules()).flat_map(|rule| &rule.names);
        let mentioned = |wanted: Kind| -> BTreeSet<&str> {
            rules().filter(|(kind, _)| *kind == wanted).map(|(_, name)| name.as_str()).collect()
        };
        let memberships = mentioned(many);
        let named: BTreeMap<Kind, BTreeSet<&str>> = Kind::ALL.into_iter().map(|kind| (kind, mentioned(kind))).collect();
        let mut places: BTreeMap<(Kind, Option<&str>, BTreeSet<&str>), usize> = BTreeMap::new();
        let mut classes = Self { of: BTreeMap::new(), all: Vec::new() };
        for (kind, name, of) in all {
            let named = named.get(&kind).and_then(|names| names.get(name)).copied();
            let members = of.iter().map(String::as_str).filter(|membership| memberships.contains(membership)).collect();
            let place = *places.entry((kind, named, members)).or_insert(classes.all.len());
            classes.of.insert((name, kind), place);
            match classes.all.get_mut(place) {
                Some((count, _)) => *count += 1,
                None => classes.all.push((1, (kind, name, of))),
            }
        }
        classes
    }
}

/// What every user and workload may reach.
pub struct Survey<'a> {
    users: Classes<'a>,
    resources: Classes<'a>,
    /// By class of user, then by class of resource.
    cells: Vec<Vec<Access>>,
}

impl<'a> Survey<'a> {
    /// Decides for everybody.
    pub fn new(set: &PolicySet, population: &'a Population) -> Result<Self, TooMany> {
        let users = Classes::new(population.subjects(), &[set], Kind::Group);
        let resources = Classes::new(population.things(), &[set], Kind::Tag);
        let decisions = users.all.len().saturating_mul(resources.all.len());
        if decisions > ACCESS_DECISIONS_MAX {
            return Err(TooMany(decisions));
        }
        let row = |(_, subject): &(u64, Member<'_>)| -> Vec<Access> {
            resources.all.iter().map(|(_, resource)| access(set, &facts(*subject, *resource))).collect()
        };
        let cells = users.all.iter().map(row).collect();
        Ok(Self { users, resources, cells })
    }

    /// Every user and workload with every resource, ordered by their names, then by resource.
    pub fn rows(&self) -> impl Iterator<Item = (&'a str, &'a str, &Access)> {
        self.users.of.iter().flat_map(move |((user, _), row)| {
            let cells = self.cells.get(*row);
            let found = move |place: &usize| cells.and_then(|cells| cells.get(*place));
            self.resources.of.iter().filter_map(move |((resource, _), at)| Some((*user, *resource, found(at)?)))
        })
    }

    /// How many pairs have access always, if something holds, and never.
    pub fn counts(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        for ((users, ..), cells) in self.users.all.iter().zip(&self.cells) {
            for ((resources, ..), cell) in self.resources.all.iter().zip(cells) {
                let [always, sometimes, never] = &mut counts;
                let count = match cell {
                    Access::Always { .. } => always,
                    Access::If { .. } => sometimes,
                    Access::Never { .. } => never,
                };
                *count += users * resources;
            }
        }
        counts
    }
}

/// Whose access a new revision changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shifts {
    /// Pairs of a user and a resource that get more: from never to if, from if to always.
    pub widened: u64,
    /// Pairs that get less.
    pub narrowed: u64,
    /// Pairs whose conditions become others: more or less, that is not known.
    pub changed: u64,
    /// Some of them, those that get more first; at most [`ACCESS_EXAMPLES_MAX`].
    pub examples: Vec<Shift>,
}

/// One pair of them, standing for all that no policy tells apart from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Who.
    pub user: String,
    /// What.
    pub resource: String,
    /// How it was.
    pub before: Access,
    /// How it will be.
    pub after: Access,
}

/// How many heads are compared with a name in the time of one decision.
const LOOKS_PER_DECISION: usize = 100;

/// Compares what everybody may reach under two sets, with at most `decisions_max` decisions: only whom a policy names that
/// is new, gone or changed can be concerned, and only these are decided again.
pub fn compare(
    old: &PolicySet,
    new: &PolicySet,
    population: &Population,
    decisions_max: usize,
) -> Result<Shifts, TooMany> {
    let (users, resources) = (
        Classes::new(population.subjects(), &[old, new], Kind::Group),
        Classes::new(population.things(), &[old, new], Kind::Tag),
    );
    let heads = changed_heads(old, new);
    let mut shifts = Shifts::default();
    let mut found: Vec<(u8, Shift)> = Vec::new();
    let too_many = || TooMany(users.all.len().saturating_mul(resources.all.len()));
    let (mut decisions, mut looks) = (0, 0);
    for (many, subject) in &users.all {
        let (kind, user, groups) = *subject;
        let whats: BTreeSet<&Side> = heads
            .iter()
            .filter(|head| head.takes(kind) && is_named(&head.who, user, groups))
            .map(|head| &head.what)
            .collect();
        for (more, thing) in &resources.all {
            let (_, resource, tags) = *thing;
            looks += whats.len();
            if looks > decisions_max.saturating_mul(LOOKS_PER_DECISION) {
                return Err(too_many());
            }
            if !whats.iter().any(|what| is_named(what, resource, tags)) {
                continue;
            }
            decisions += 2;
            if decisions > decisions_max {
                return Err(too_many());
            }
            let facts = facts(*subject, *thing);
            let (before, after) = (access(old, &facts), access(new, &facts));
            if before.equals(&after) {
                continue;
            }
            let (rank, count) = match after.width().cmp(&before.width()) {
                std::cmp::Ordering::Greater => (0, &mut shifts.widened),
                std::cmp::Ordering::Equal => (1, &mut shifts.changed),
                std::cmp::Ordering::Less => (2, &mut shifts.narrowed),
            };
            *count = count.saturating_add(many.saturating_mul(*more));
            let (user, resource) = (user.to_owned(), resource.to_owned());
            found.push((rank, Shift { user, resource, before, after }));
        }
    }
    found.sort_by(|(a, x), (b, y)| (a, &x.user, &x.resource).cmp(&(b, &y.user, &y.resource)));
    shifts.examples = found.into_iter().map(|(_, shift)| shift).take(ACCESS_EXAMPLES_MAX).collect();
    Ok(shifts)
}

/// Whom and what the policies name that differ between two sets.
fn changed_heads<'a>(old: &'a PolicySet, new: &'a PolicySet) -> BTreeSet<&'a Scope> {
    let differing = |of: &'a PolicySet, from: &'a PolicySet| {
        let same = |rule: &Rule| from.rules.get(&rule.id).is_some_and(|other| other.canonical == rule.canonical);
        of.rules().filter(move |rule| !same(rule)).filter_map(|rule| rule.scope.as_ref())
    };
    differing(old, new).chain(differing(new, old)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn set(text: &str) -> PolicySet {
        compile(&[("p", text)]).unwrap()
    }

    fn members(names: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        let own = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
        names.iter().map(|(name, of)| ((*name).to_owned(), own(of))).collect()
    }

    fn population() -> Population {
        Population {
            users: members(&[("ann", &["eng"]), ("ben", &["eng", "fun"]), ("cat", &["ops"]), ("dan", &[])]),
            resources: members(&[("pg", &["db"]), ("wiki", &[]), ("redis", &["db", "fast"])]),
            ..Population::default()
        }
    }

    const OLD: &str = "@id(\"db\") permit(principal in Group::\"eng\", action, resource in Tag::\"db\")
                       when { context.login_age_s < 5 };
                       permit(principal == User::\"dan\", action, resource == Resource::\"wiki\");";

    #[test]
    fn everybody_is_there_once_in_order() {
        let (set, population) = (set(OLD), population());
        let survey = Survey::new(&set, &population).unwrap();
        let words: Vec<String> =
            survey.rows().map(|(user, resource, access)| format!("{user} {resource} {}", access.word())).collect();
        let expected = [
            "ann pg if",
            "ann redis if",
            "ann wiki never",
            "ben pg if",
            "ben redis if",
            "ben wiki never",
            "cat pg never",
            "cat redis never",
            "cat wiki never",
            "dan pg never",
            "dan redis never",
            "dan wiki always",
        ];
        assert_eq!(words, expected);
        assert_eq!(survey.counts(), [1, 4, 7]);
        // Not 4 x 3: no policy tells ann from ben, or pg from redis.
        assert_eq!((survey.users.all.len(), survey.resources.all.len()), (3, 2));
    }

    #[test]
    fn a_comparison_says_who_gets_more_and_who_less() {
        let (old, population) = (set(OLD), population());
        let compare = |old: &PolicySet, new: &PolicySet, population: &Population| compare(old, new, population, 24);
        // Moved within the file, beside a change that concerns the same people.
        let moved = format!("// moved\n{OLD} permit(principal in Group::\"eng\", action, resource) when {{ false }};");
        assert_eq!(compare(&old, &set(&moved), &population), Ok(Shifts::default()));
        let later = compare(&old, &set(&OLD.replace("< 5", "< 9")), &population).unwrap();
        assert_eq!((later.widened, later.changed, later.narrowed), (0, 4, 0));
        let other = set("@id(\"db\") permit(principal in Group::\"eng\", action, resource in Tag::\"db\");
                         forbid(principal == User::\"ben\", action, resource);");
        let shifts = compare(&old, &other, &population).unwrap();
        assert_eq!((shifts.widened, shifts.changed, shifts.narrowed), (2, 0, 3));
        let told: Vec<String> = shifts
            .examples
            .iter()
            .map(|s| format!("{} {} {} {}", s.user, s.resource, s.before.word(), s.after.word()))
            .collect();
        assert_eq!(told, ["ann pg if always", "ben pg if never", "dan wiki always never"]);
    }

    #[test]
    fn too_many_decisions_are_refused_and_many_alike_are_one() {
        let each = |kind: &str, n: usize| -> String {
            (0..n).map(|i| format!("{kind}::\"{i}\"")).collect::<Vec<_>>().join(",")
        };
        let many = |n: usize| (0..n).map(|i| (i.to_string(), BTreeSet::new())).collect::<BTreeMap<_, _>>();
        let population = Population { users: many(20_000), resources: many(2_000), ..Population::default() };
        let alike = set("permit(principal, action, resource);");
        assert_eq!(Survey::new(&alike, &population).map(|s| s.counts()).unwrap(), [40_000_000, 0, 0]);
        let side = ACCESS_DECISIONS_MAX.isqrt() + 1;
        let named = set(&format!(
            "permit(principal, action, resource) when {{ principal in [{}] && resource in [{}] }};",
            each("User", side),
            each("Resource", side)
        ));
        let refused = Survey::new(&named, &population).map(|s| s.counts()).unwrap_err();
        assert!(refused.to_string().contains("name one user"), "{refused}");
        assert!(compare(&named, &alike, &population, 20).is_err());
    }

    #[test]
    fn only_whom_a_change_concerns_is_decided_again() {
        let (old, population) = (set(OLD), population());
        let new = format!("{OLD} permit(principal == User::\"cat\", action, resource in Tag::\"fast\");");
        // `cat` and `redis`, before and after.
        assert_eq!(compare(&old, &set(&new), &population, 2).unwrap().widened, 1);
        assert!(compare(&old, &set(&new), &population, 1).is_err());
        assert_eq!(compare(&old, &set(OLD), &population, 0), Ok(Shifts::default()));
    }

    #[test]
    fn examples_are_bounded() {
        let users = (0..ACCESS_EXAMPLES_MAX + 5).map(|i| (format!("u{i}"), BTreeSet::new())).collect();
        let population = Population { users, resources: members(&[("pg", &[])]), ..Population::default() };
        let each = |i: usize| format!("permit(principal == User::\"u{i}\", action, resource);");
        let all: String = (0..ACCESS_EXAMPLES_MAX + 5).map(each).collect();
        let shifts = compare(&set(""), &set(&all), &population, ACCESS_DECISIONS_MAX).unwrap();
        assert_eq!((shifts.widened, shifts.examples.len()), (ACCESS_EXAMPLES_MAX as u64 + 5, ACCESS_EXAMPLES_MAX));
    }
}
