//! Who is asking? The demonstration's chapters on people of an identity provider, passkeys, and programs without a person.

use super::{Demo, SOON, ensure, host_name, said};
use crate::issuer::Issuer;
use crate::lab::{Finished, LabError, Name};
use crate::perimeter::{self, POLICY, StepError};
use crate::provider;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Laptops that these chapters have for themselves: a person's, and one that is a program's.
pub(super) const LAPTOPS: usize = 2;
const PROVIDER: (&str, &str) = ("203.0.113.66", "8443");
const ISSUER: &str = "https://203.0.113.66:8443";
const AUDIENCE: &str = "umbra.corp.example";
const PEOPLE: &str = r#"{"ann": {"groups": ["dev"], "disabled": false}}"#;
const WITHOUT_ANN: &str = r#"{"ann": {"groups": ["dev"], "disabled": true}}"#;
const MORE: &str = r#"@id("staff-see-the-wiki-with-a-passkey")
permit (principal in Group::"staff", action == Action::"connect", resource == Resource::"wiki")
when { context.mfa_method == "passkey-local" };
@id("builds-see-the-web")
permit (principal == Workload::"build", action == Action::"connect", resource == Resource::"web");"#;

fn laptops() -> Result<[Name; LAPTOPS], StepError> {
    let both: Result<[Name; LAPTOPS], _> = Name::further(LAPTOPS).try_into();
    both.map_err(|_| StepError::Answer("the world has too few laptops".to_owned()))
}

impl Demo<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.world.folder().join(name)
    }

    fn keep(&self, name: &str, text: &str) -> Result<(), StepError> {
        let path = self.file(name);
        fs::write(&path, text).map_err(|error| StepError::File(path, error))
    }

    /// A provider on the outside network, and what a browser on a laptop is started with.
    fn start_provider(&mut self) -> Result<(), StepError> {
        self.keep("people.json", PEOPLE)?;
        let mut command = self.world.host(Name::Stranger).command("umbra-lab");
        let (address, port) = PROVIDER;
        command.args(["__provider", address, port]).args([self.file("provider.pem"), self.file("people.json")]);
        let daemon = self.world.host(Name::Stranger).start("provider", command)?;
        daemon.wait_for_line("ready", SOON)?;
        self.running.push((Name::Stranger, daemon));
        let (ca, key) = (self.file("provider.pem"), self.file("authenticator"));
        let script = format!("#!/bin/sh\nexec umbra-lab __person ann '{}' '{}' \"$1\"\n", ca.display(), key.display());
        self.keep("browser", &script)?;
        let path = self.file("browser");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|error| StepError::File(path, error))
    }

    /// A command that opens a browser.
    fn in_browser(&self, laptop: Name, words: &[&str]) -> Result<Finished, StepError> {
        let host = self.world.host(laptop);
        let (program, rest) = words.split_first().unwrap_or((&"umbra", &[]));
        let mut command = host.command(program);
        command.args(rest).env("BROWSER", self.file("browser"));
        let finished = host.run_command(&mut command, SOON)?;
        self.report.command(laptop, words, &finished);
        Ok(finished)
    }

    fn page(&self, laptop: Name, name: &str) -> Result<Finished, StepError> {
        self.probe(laptop, &["--patience=1000", "http", &format!("http://{}/", host_name(name))])
    }

    fn administrate(&self, words: &[&str]) -> Result<Finished, StepError> {
        self.tell(Name::Controller, &[&["umbra-controller"], words].concat())
    }

    pub(super) fn sign_in(&mut self) -> Result<(), StepError> {
        self.report.heading("A person signs in at the organisation's identity provider, and shows a passkey");
        let [laptop, _] = laptops()?;
        self.start_provider()?;
        let certificate = self.file("provider.pem");
        let pem = fs::read(&certificate).map_err(|error| StepError::File(certificate, error))?;
        let ca = perimeter::write_file(self.world, Name::Controller, "provider.pem", &pem)?;
        let secret =
            perimeter::write_file(self.world, Name::Controller, "client-secret", provider::CLIENT.1.as_bytes())?;
        let named = ["idp", "add", "corp", "--issuer", ISSUER, "--client-id", provider::CLIENT.0, "--anyone"];
        let given = ["--client-secret-file", &secret, "--ca-file", &ca, "--allow-address", "203.0.113.66/32"];
        perimeter::admin(self.world, &["group", "add", "staff"])?;
        let added = self.administrate(&[&named[..], &given, &["--group", "dev=staff"]].concat())?;
        self.check("the controller knows the provider", ensure(added.success(), ""));
        for line in MORE.lines() {
            self.report.note(line);
        }
        perimeter::admin(self.world, &["account", "add", "build"])?;
        let policy = format!("{POLICY}\n{MORE}\n");
        let policy = perimeter::write_file(self.world, Name::Controller, "more.cedar", policy.as_bytes())?;
        perimeter::admin(self.world, &["policy", "apply", &policy])?;

        let daemon = perimeter::start_client(self.world, laptop)?;
        self.running.push((laptop, daemon));
        perimeter::join_laptop(self.world, laptop)?;
        let signed = self.in_browser(laptop, &["umbra", "login"])?;
        let known = signed.success() && signed.stdout.contains("logged in as ann.corp");
        self.check("ann signs in, in a browser", ensure(known, signed.stdout.trim_end()));
        let denied = self.tell(laptop, &["umbra", "connect", "wiki"])?;
        let told = denied.status.code() == Some(3) && said(&denied).contains("second factor");
        self.check("the wiki takes a passkey, and says so", ensure(told, ""));
        let made = self.in_browser(laptop, &["umbra", "mfa", "add", "--passkey", "key"])?;
        self.check("ann makes one", ensure(made.success(), ""));
        // In the next log-in it has to be shown.
        perimeter::umbra(self.world, laptop, &["logout"])?;
        self.in_browser(laptop, &["umbra", "login"])?;
        let dark = self.page(laptop, "wiki")?;
        self.check("in the next log-in the wiki is closed again", ensure(!dark.success(), ""));
        let stepped = self.in_browser(laptop, &["umbra", "connect", "wiki", "--passkey"])?;
        self.check("`umbra connect` asks for it there and then", ensure(stepped.success(), ""));
        let page = self.page(laptop, "wiki")?;
        self.check("and the wiki opens", ensure(page.stdout == "This is wiki.\n", said(&page)));

        self.keep("people.json", WITHOUT_ANN)?;
        let synced = self.administrate(&["idp", "sync"])?;
        self.check("the provider disables ann; asked again, it says so", ensure(synced.stdout.contains("1 ended"), ""));
        let page = self.page(laptop, "wiki")?;
        self.check("and ann reaches nothing any more", ensure(!page.success(), said(&page)));
        Ok(())
    }

    pub(super) fn be_a_workload(&mut self) -> Result<(), StepError> {
        self.report.heading("A program without a person joins with the token of its platform");
        let [_, machine] = laptops()?;
        let wrong = |error: anyhow::Error| StepError::Answer(format!("the lab's platform fails: {error:#}"));
        let issuer = Issuer::new("https://ci.example").map_err(wrong)?;
        let keys = issuer.keys().to_string();
        let keys = perimeter::write_file(self.world, Name::Controller, "keys.json", keys.as_bytes())?;
        let rule = ["federation", "add", "ci", "--issuer", "https://ci.example", "--audience", AUDIENCE];
        let about = ["--subject", "repo:org/shop:*", "--account", "build", "--jwks-file", &keys];
        let added = self.administrate(&[&rule[..], &about].concat())?;
        self.check("a rule says whose tokens let machines in, and as what", ensure(added.success(), ""));
        perimeter::admin(self.world, &["federation", "join-file", "ci", "--out", "/etc/umbra/ci.join"])?;
        let file = perimeter::read_file(self.world, Name::Controller, "/etc/umbra/ci.join")?;
        let file = perimeter::write_file(self.world, machine, "ci.join", &file)?;
        let daemon = perimeter::start_client(self.world, machine)?;
        let token = issuer.token(AUDIENCE, "repo:org/shop:ref:refs/heads/main", 300).map_err(wrong)?;
        let token = perimeter::write_file(self.world, machine, "token", token.as_bytes())?;
        let joined = self.tell(machine, &["umbra", "up", "--join", &file, "--token-file", &token, "--yes"])?;
        let connected: Result<_, LabError> = daemon.wait_for_line("connected to the controller", SOON);
        self.running.push((machine, daemon));
        let works = joined.success() && connected.is_ok();
        self.check("a build joins with its token, and nobody logs in", ensure(works, ""));
        let page = self.page(machine, "web")?;
        self.check("it reaches the one resource of its account", ensure(page.stdout == "This is web.\n", said(&page)));
        let other = self.page(machine, "wiki")?;
        self.check("and nothing else", ensure(!other.success(), said(&other)));
        let removed = self.administrate(&["account", "remove", "build"])?;
        let after = self.page(machine, "web")?;
        self.check("with its account it is gone", ensure(removed.success() && !after.success(), ""));
        Ok(())
    }
}
