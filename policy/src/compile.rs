//! How do policy files become a set that decides? Scan, parse, name, check against the schema, index; or say what is
//! wrong, with file, line and column. Nothing is half-applied: one problem refuses the whole revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cedar_policy::{Policy, PolicyId, ValidationMode, Validator};
use miette::Diagnostic;
use model::limits::{
    POLICIES_MAX, POLICY_FILE_NAME_MAX, POLICY_FILES_MAX, POLICY_PROBLEMS_MAX, POLICY_STACK_BYTES,
    POLICY_TOTAL_BYTES_MAX,
};

use crate::annotate;
use crate::facts::Fact;
use crate::index::Index;
use crate::lint::{self, Warning};
use crate::read::{Clause, Contents, read};
use crate::scan::{Source, scan};
use crate::schema::{Kind, Vocabulary};
use crate::scope::Scope;
use crate::text::{brief, is_hidden};

/// Why a file was refused, and where. Printed as `file:line:col: reason`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct Problem {
    /// The file's name as given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Whether a policy permits or forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It permits what matches.
    Permit,
    /// It forbids what matches, whatever else permits it.
    Forbid,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => "permit",
            Self::Forbid => "forbid",
        })
    }
}

/// One policy of a compiled set, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its `@id`, or the file and its place there (`web.cedar#2`).
    pub id: String,
    /// Where it stands.
    pub file: String,
    /// Line of its first character, from 1.
    pub line: usize,
    /// Column of its first character, from 1.
    pub column: usize,
    /// Permit or forbid.
    pub effect: Effect,
    /// Its `@reason`, for whom it denies.
    pub reason: Option<String>,
    /// The facts that it reads.
    pub reads: BTreeSet<Fact>,
    /// Whether it has a `when` or `unless`.
    pub conditional: bool,
    /// Its text as Cedar sees it, without comments and layout; equal texts mean equal policies.
    pub(crate) canonical: String,
    /// Whom and what it names; none when it can match nothing.
    pub(crate) scope: Option<Scope>,
    /// Every name that it mentions.
    pub(crate) names: BTreeSet<(Kind, String)>,
}

/// All policies of one revision, checked and indexed. Immutable.
#[derive(Debug, Clone)]
pub struct PolicySet {
    pub(crate) words: &'static Vocabulary,
    pub(crate) rules: BTreeMap<String, Arc<Rule>>,
    pub(crate) index: Index,
    warnings: Vec<Warning>,
}

impl PolicySet {
    /// Its policies, sorted by id.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.values().map(AsRef::as_ref)
    }

    /// What an administrator should look at again, sorted.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Compiles `(file name, text)` pairs into one set. No file at all is a set that denies everything.
pub fn compile<N: AsRef<str>, T: AsRef<str>>(files: &[(N, T)]) -> Result<PolicySet, Vec<Problem>> {
    compile_while(files, &|| true)
}

/// Like [`compile`], as long as `is_time` says so. It is asked before each file and each policy: what goes on in between
/// is bounded by the sizes of both.
pub fn compile_while<N: AsRef<str>, T: AsRef<str>>(
    files: &[(N, T)],
    is_time: &(dyn Fn() -> bool + Sync),
) -> Result<PolicySet, Vec<Problem>> {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_ref(), text.as_ref())).collect();
    let files = files.as_slice();
    check_totals(files).map_err(|problem| vec![problem])?;
    // Cedar's parser takes some 30 KiB of stack for each bracket in a debug build: more than a thread usually has.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(POLICY_STACK_BYTES);
        let result =
            thread.spawn_scoped(scope, || compile_here(files, is_time)).map(std::thread::ScopedJoinHandle::join);
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(vec![at_start("(all files)", "the policy compiler failed; please report it".to_owned())]),
            Err(error) => Err(vec![at_start("(all files)", format!("no thread to compile in: {error}"))]),
        }
    })
}

fn compile_here(files: &[(&str, &str)], is_time: &dyn Fn() -> bool) -> Result<PolicySet, Vec<Problem>> {
    let words = Vocabulary::shared().map_err(|reason| vec![at_start("(schema)", reason)])?;
    let sources: Vec<Source<'_>> = files.iter().map(|(name, text)| Source::new(name, text)).collect();
    let mut compiler = Compiler { words, is_time, problems: Vec::new(), parsed: BTreeMap::new() };
    for source in &sources {
        compiler.read_file(source).map_err(|late| vec![late])?;
    }
    let mut warnings = compiler.validate().map_err(|late| vec![late])?;
    let Compiler { mut problems, parsed, .. } = compiler;
    let mut index = Index::default();
    let mut rules = BTreeMap::new();
    for (id, Parsed { rule, policy, clauses, .. }) in parsed {
        let rule = Arc::new(rule);
        if let Some(scope) = &rule.scope {
            index.insert(scope, Arc::clone(&rule), &policy, clauses);
        }
        rules.insert(id, rule);
    }
    if !problems.is_empty() {
        problems.sort();
        problems.dedup();
        problems.truncate(POLICY_PROBLEMS_MAX);
        return Err(problems);
    }
    warnings.extend(lint::warnings(&rules));
    warnings.sort();
    warnings.dedup();
    Ok(PolicySet { words, rules, index, warnings })
}

fn at_start(file: &str, reason: String) -> Problem {
    Problem { file: brief(file), line: 1, column: 1, reason }
}

fn check_totals(files: &[(&str, &str)]) -> Result<(), Problem> {
    let name = |at: usize| files.get(at).map_or("", |(file, _)| *file);
    let unfit = |name: &str| name.is_empty() || name.len() > POLICY_FILE_NAME_MAX || name.chars().any(is_hidden);
    if let Some((name, _)) = files.iter().find(|(name, _)| unfit(name)) {
        let reason = format!("the name of a file must be 1 to {POLICY_FILE_NAME_MAX} bytes of visible characters");
        return Err(at_start(name, reason));
    }
    if files.len() > POLICY_FILES_MAX {
        let reason = format!("{} files; at most {POLICY_FILES_MAX} are read: join some of them", files.len());
        return Err(at_start(name(POLICY_FILES_MAX), reason));
    }
    let mut total = 0usize;
    for (at, (_, text)) in files.iter().enumerate() {
        total = total.saturating_add(text.len());
        if total > POLICY_TOTAL_BYTES_MAX {
            let reason = format!("all files together have more than {POLICY_TOTAL_BYTES_MAX} bytes");
            return Err(at_start(name(at), reason));
        }
    }
    Ok(())
}

struct Parsed<'a> {
    rule: Rule,
    policy: Policy,
    clauses: Vec<Clause>,
    source: &'a Source<'a>,
}

struct Compiler<'a> {
    words: &'static Vocabulary,
    is_time: &'a dyn Fn() -> bool,
    problems: Vec<Problem>,
    /// By id.
    parsed: BTreeMap<String, Parsed<'a>>,
}

impl<'a> Compiler<'a> {
    fn problem(&mut self, source: &Source<'_>, offset: usize, reason: &str) {
        let (line, column) = source.position(offset);
        self.problems.push(Problem { file: source.name.clone(), line, column, reason: brief(reason) });
    }

    /// Refuses all of it when there is no time left.
    fn check_time(&self) -> Result<(), Problem> {
        if (self.is_time)() {
            return Ok(());
        }
        let reason =
            "to compile all policies takes longer than is allowed: use groups and tags instead of single names";
        Err(at_start("(all files)", reason.to_owned()))
    }

    /// Fails only when there is no time left; problems are kept.
    fn read_file(&mut self, source: &'a Source<'a>) -> Result<(), Problem> {
        self.check_time()?;
        let starts = match scan(source.text) {
            Ok(starts) => starts,
            Err(refusal) => {
                self.problem(source, refusal.offset, &refusal.reason);
                return Ok(());
            }
        };
        if self.parsed.len() + starts.len() > POLICIES_MAX {
            let reason = format!("more than {POLICIES_MAX} policies: use groups and tags instead of single names");
            self.problem(source, 0, &reason);
            return Ok(());
        }
        let set: cedar_policy::PolicySet = match source.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                let errors: cedar_policy::ParseErrors = errors;
                for error in errors.iter().take(POLICY_PROBLEMS_MAX) {
                    self.problem(source, offset_of(error), &describe(error));
                }
                return Ok(());
            }
        };
        // The scanner and Cedar must agree about where policies are; else one of them could go unseen.
        if starts.len() != set.policies().count() + set.templates().count() {
            self.problem(source, 0, "the policies of this file cannot be told apart: end each with `;`");
            return Ok(());
        }
        // Cedar numbers what it parses: `policy0`, `policy1`, in the order of the text.
        for (at, start) in starts.into_iter().enumerate() {
            if self.problems.len() >= POLICY_PROBLEMS_MAX {
                break;
            }
            self.check_time()?;
            let numbered = PolicyId::new(format!("policy{at}"));
            match set.policy(&numbered) {
                Some(policy) => match self.read_policy(source, at, start, policy) {
                    Ok((rule, clauses)) => {
                        let policy = policy.new_id(PolicyId::new(&rule.id));
                        self.parsed.insert(rule.id.clone(), Parsed { rule, policy, clauses, source });
                    }
                    Err(reason) => self.problem(source, start, &reason),
                },
                None => {
                    let reason = "templates (`?principal`, `?resource`) are not supported: name a group or a tag";
                    self.problem(source, start, reason);
                }
            }
        }
        Ok(())
    }

    fn read_policy(
        &self,
        source: &Source<'_>,
        at: usize,
        start: usize,
        policy: &Policy,
    ) -> Result<(Rule, Vec<Clause>), String> {
        let Contents { reads, mut clauses } = read(policy)?;
        annotate::check(policy)?;
        annotate::name(policy, &mut clauses)?;
        let id = match policy.annotation("id") {
            Some(id) => id.to_owned(),
            None => format!("{}#{}", source.name, at + 1),
        };
        if let Some(Parsed { rule, .. }) = self.parsed.get(&id) {
            return Err(format!("the id `{id}` is taken by the policy at {}:{}", rule.file, rule.line));
        }
        let (line, column) = source.position(start);
        let names = policy.entity_literals();
        let rule = Rule {
            id,
            file: source.name.clone(),
            line,
            column,
            effect: match policy.effect() {
                cedar_policy::Effect::Permit => Effect::Permit,
                cedar_policy::Effect::Forbid => Effect::Forbid,
            },
            reason: policy.annotation("reason").map(str::to_owned),
            reads,
            conditional: policy.has_non_scope_constraint(),
            canonical: canonical(policy),
            scope: Scope::of(policy, &self.words.connect),
            names: names.iter().filter_map(Kind::of).map(|(kind, name)| (kind, name.to_owned())).collect(),
        };
        Ok((rule, clauses))
    }

    /// Checks all that was read against the schema; answers with Cedar's warnings. Fails only when there is no time left.
    fn validate(&mut self) -> Result<Vec<Warning>, Problem> {
        let validator = Validator::new(self.words.schema.clone());
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        // One by one: a set of many faulty policies would take minutes for problems that nobody reads.
        for Parsed { rule, policy, source, .. } in self.parsed.values() {
            if self.problems.len() + problems.len() >= POLICY_PROBLEMS_MAX {
                break;
            }
            self.check_time()?;
            let here =
                |reason: String| Problem { file: rule.file.clone(), line: rule.line, column: rule.column, reason };
            let alone = match cedar_policy::PolicySet::from_policies([policy.clone()]) {
                Ok(alone) => alone,
                Err(error) => {
                    problems.push(here(brief(&error.to_string())));
                    continue;
                }
            };
            let result = validator.validate(&alone, ValidationMode::Strict);
            // Sorted before they are cut, so that the same files always have the same problems.
            let errors: BTreeSet<(usize, String)> =
                result.validation_errors().map(|error| (offset_of(error), describe(error))).collect();
            for (offset, reason) in errors.into_iter().take(POLICY_PROBLEMS_MAX) {
                let (line, column) = if offset > 0 { source.position(offset) } else { (rule.line, rule.column) };
                problems.push(Problem { line, column, ..here(brief(&reason)) });
            }
            let seen = result.validation_warnings().map(|warning| Warning::of(rule, &brief(&describe(warning))));
            warnings.extend(seen.take(POLICY_PROBLEMS_MAX));
        }
        self.problems.append(&mut problems);
        Ok(warnings)
    }
}

/// The policy as Cedar's own tree prints it.
fn canonical(policy: &Policy) -> String {
    policy.as_ref().to_string()
}

/// The first byte that an error of Cedar's points at.
fn offset_of(error: &dyn Diagnostic) -> usize {
    error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset())
}

/// The error, and Cedar's advice where it has some.
fn describe(error: &dyn Diagnostic) -> String {
    let advice = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{error}{advice}")
}
