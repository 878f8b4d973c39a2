//! What do people ask of the running client, and when is it answered?

use super::{Agent, Inner};
use crate::connect::{Standing, Word};
use crate::rpc;
use model::grant::CatalogueAddress;
use model::ids::ResourceId;
use model::limits::{LOCAL_WAITERS_MAX, NAME_MAX};
use model::net::HostName;
use model::secret::Secret;
use model::text::excerpt;
use model::time::Instant;
use proto::convert::millis;
use proto::local;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::transport::Channel;

/// How long a person waits for a resource to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long a log-in waits for the link to the controller: as long as a restart of the controller may take, or the first
/// connection over a slow path.
const LINK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long `up` waits for the first word of the controller: some attempts of [`model::limits::SILENCE_MAX`].
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
/// How long a log-in waits until the catalogue shows it.
const LOGIN_SHOWN_MAX: Duration = Duration::from_secs(3);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Status>>;
/// Where the address of a name goes.
pub(super) type NameReply = oneshot::Sender<Option<CatalogueAddress>>;
/// What the controller says of a name.
pub(super) type Named = Result<(ResourceId, CatalogueAddress), String>;

/// What may be asked.
pub enum Order {
    /// Log a person in.
    Login {
        /// Who.
        user: String,
        /// The password.
        password: Secret<String>,
        /// The answer.
        reply: Reply<local::LoginReply>,
    },
    /// Something about second factors.
    Factor(FactorOrder),
    /// Something about signing in at an identity provider.
    SignIn(SignInOrder),
    /// End the session.
    Logout(Reply<local::LogoutReply>),
    /// The catalogue.
    List(Reply<local::ListReply>),
    /// Reach a resource now.
    Connect(String, Reply<local::ConnectReply>),
    /// The last word on a resource.
    Why(String, Reply<local::WhyReply>),
    /// Tell when the controller's catalogue is here, or why it is not after a while.
    Arrive(oneshot::Sender<Result<(), String>>),
    /// What is true right now.
    Status(Reply<local::StatusReply>),
    /// The address of a name below a suffix, its route set.
    Address(HostName, oneshot::Sender<Option<CatalogueAddress>>),
    /// The connection to the controller, for calls that are handed on as they are.
    Channel(Reply<Channel>),
    /// Undo everything and end.
    Stop,
}

/// What may be asked about second factors: the controller answers it.
pub enum FactorOrder {
    /// Which there are.
    List(Reply<local::ListFactorsReply>),
    /// Begin an authenticator app of this name.
    Begin(String, Reply<local::BeginTotpReply>),
    /// Its first code.
    Confirm {
        /// Which app.
        id: String,
        /// The code.
        code: Secret<String>,
        /// The answer.
        reply: Reply<local::RecoveryCodes>,
    },
    /// Give one.
    Verify(Secret<String>, Reply<local::VerifyFactorReply>),
    /// Give one up.
    Remove(String, Reply<local::RemoveFactorReply>),
    /// New recovery codes.
    Renew(Reply<local::RecoveryCodes>),
    /// Ask for a new passkey.
    BeginPasskey {
        /// What it will be called.
        name: String,
        /// Where the page is.
        port: u16,
        /// The answer.
        reply: Reply<local::PasskeyQuestion>,
    },
    /// What the browser answered to that.
    ConfirmPasskey(Vec<u8>, Reply<local::RecoveryCodes>),
    /// Ask for a passkey as a second factor.
    AskPasskey {
        /// For which resource, as a person names it; empty: none in particular.
        resource: String,
        /// Where the page is.
        port: u16,
        /// The answer.
        reply: Reply<local::PasskeyQuestion>,
    },
    /// What the browser answered to that.
    VerifyPasskey(Vec<u8>, Reply<local::VerifyFactorReply>),
}

/// What may be asked about signing in at an identity provider: the controller answers it.
pub enum SignInOrder {
    /// Where.
    Providers(Reply<local::ListProvidersReply>),
    /// With a browser.
    Begin(local::BeginSignInRequest, Reply<local::BeginSignInReply>),
    /// What it brought.
    Finish(local::FinishSignInRequest, Reply<local::LoginReply>),
    /// With a code.
    BeginCode(String, Reply<local::BeginCodeSignInReply>),
    /// Is it done?
    Poll(String, Reply<local::PollSignInReply>),
}

/// What is said to one command too many.
const TOO_MANY: &str = "too many commands wait already";

/// Lets one more wait; gives it back where too many do.
fn wait_in<T>(line: &mut Vec<T>, waiter: T) -> Result<(), T> {
    if line.len() >= LOCAL_WAITERS_MAX {
        return Err(waiter);
    }
    line.push(waiter);
    Ok(())
}

/// Somebody who waits for a resource.
pub(super) struct Waiter {
    resource: ResourceId,
    since: Instant,
    reply: WaiterReply,
}

enum WaiterReply {
    Connect(Reply<local::ConnectReply>),
    Why(Reply<local::WhyReply>),
}

/// Somebody who waits until the catalogue shows the log-in.
pub(super) struct LoginWaiter {
    session: String,
    since: Instant,
    reply: Reply<local::LoginReply>,
    answer: local::LoginReply,
}

fn unreachable(why: String) -> Status {
    Status::unavailable(why)
}

/// Hands a question on to the controller, and its answer back.
async fn pass<T, C>(reply: Reply<T>, channel: Result<C, Status>, ask: impl AsyncFnOnce(C) -> Result<T, Status>) {
    let answer = match channel {
        Ok(channel) => ask(channel).await,
        Err(status) => Err(status),
    };
    let _ = reply.send(answer);
}

impl Agent {
    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Login { user, password, reply } => self.login(user, password, reply),
            Order::Factor(order) => self.factor(order),
            Order::SignIn(order) => self.sign_in(order),
            Order::Logout(reply) => self.logout(reply),
            Order::List(reply) => drop(reply.send(Ok(self.list()))),
            Order::Connect(name, reply) => self.connect(&name, reply),
            Order::Why(name, reply) => self.why(&name, reply),
            Order::Arrive(reply) => {
                if let Err((_, reply)) = wait_in(&mut self.arrivals, (self.runtime.now(), reply)) {
                    drop(reply.send(Err(TOO_MANY.to_owned())));
                }
            }
            Order::Status(reply) => drop(reply.send(Ok(self.status()))),
            Order::Address(name, reply) => self.look_up(name, reply),
            Order::Channel(reply) => drop(reply.send(self.link.channel().map_err(unreachable))),
            Order::Stop => {}
        }
    }

    fn login(&self, user: String, password: Secret<String>, reply: Reply<local::LoginReply>) {
        let (link, inner) = (self.link.clone(), self.inner.clone());
        tokio::spawn(async move {
            // Whoever logs in right after `up` meets a link that is just being made.
            let result = match link.channel_within(LINK_WAIT_MAX).await {
                Ok(channel) => rpc::login(channel, user.clone(), password).await,
                Err(why) => Err(unreachable(why)),
            };
            let _ = inner.send(Inner::LoggedIn { user, reply, result }).await;
        });
    }

    fn sign_in(&self, order: SignInOrder) {
        let (link, inner) = (self.link.clone(), self.inner.clone());
        tokio::spawn(async move {
            let channel = link.channel_within(LINK_WAIT_MAX).await.map_err(unreachable);
            match order {
                SignInOrder::Providers(reply) => pass(reply, channel, rpc::list_providers).await,
                SignInOrder::Begin(request, reply) => {
                    let local::BeginSignInRequest { provider, port } = request;
                    pass(reply, channel, |c| rpc::begin_sign_in(c, provider, port)).await;
                }
                SignInOrder::BeginCode(provider, reply) => {
                    pass(reply, channel, |c| rpc::begin_code_sign_in(c, provider)).await;
                }
                SignInOrder::Finish(request, reply) => {
                    let done = match channel {
                        Ok(channel) => rpc::finish_sign_in(channel, request).await,
                        Err(status) => Err(status),
                    };
                    let (user, result) = match done {
                        Ok((session, user, ends_in)) => (user, Ok((session, ends_in))),
                        Err(status) => (String::new(), Err(status)),
                    };
                    let _ = inner.send(Inner::LoggedIn { user, reply, result }).await;
                }
                SignInOrder::Poll(id, reply) => {
                    let poll = async |channel| match rpc::poll_sign_in(channel, id).await? {
                        Err(wait) => Ok(local::PollSignInReply { login: None, wait_ms: millis(wait) }),
                        Ok((session, user, ends_in)) => {
                            let (shown, answer) = oneshot::channel();
                            let result = Ok((session, ends_in));
                            let _ = inner.send(Inner::LoggedIn { user, reply: shown, result }).await;
                            let login = answer.await.map_err(|_| Status::unavailable("the client is stopping"))??;
                            Ok(local::PollSignInReply { login: Some(login), wait_ms: 0 })
                        }
                    };
                    pass(reply, channel, poll).await;
                }
            }
        });
    }

    pub(super) fn on_logged_in(
        &mut self,
        user: String,
        reply: Reply<local::LoginReply>,
        result: Result<(String, Duration), Status>,
    ) {
        let (session, ends_in) = match result {
            Ok(done) => done,
            Err(status) => return drop(reply.send(Err(status))),
        };
        let answer = local::LoginReply { user, ends_in_ms: millis(ends_in) };
        let waiter = LoginWaiter { session, since: self.runtime.now(), reply, answer };
        if let Err(LoginWaiter { reply, answer, .. }) = wait_in(&mut self.logins, waiter) {
            // It is logged in; only that it shows is not waited for.
            drop(reply.send(Ok(answer)));
        }
    }

    fn factor(&self, order: FactorOrder) {
        let (channel, inner) = (self.link.channel(), self.inner.clone());
        let resource = match &order {
            FactorOrder::AskPasskey { resource, .. } if !resource.is_empty() => Some(self.named(resource)),
            _ => None,
        };
        tokio::spawn(async move {
            let channel = channel.map_err(unreachable);
            match order {
                FactorOrder::List(reply) => pass(reply, channel, rpc::list_factors).await,
                FactorOrder::Begin(name, reply) => pass(reply, channel, |c| rpc::begin_totp(c, name)).await,
                FactorOrder::Confirm { id, code, reply } => {
                    pass(reply, channel, |c| rpc::confirm_totp(c, id, code.expose().clone())).await;
                }
                FactorOrder::Verify(code, reply) => {
                    let verify = async |channel| {
                        let proven = rpc::verify_factor(channel, code.expose().clone()).await?;
                        let _ = inner.send(Inner::Proven).await;
                        Ok(proven)
                    };
                    pass(reply, channel, verify).await;
                }
                FactorOrder::Remove(factor, reply) => pass(reply, channel, |c| rpc::remove_factor(c, factor)).await,
                FactorOrder::Renew(reply) => pass(reply, channel, rpc::renew_recovery_codes).await,
                FactorOrder::BeginPasskey { name, port, reply } => {
                    pass(reply, channel, |c| rpc::begin_passkey(c, name, port)).await;
                }
                FactorOrder::ConfirmPasskey(answer, reply) => {
                    pass(reply, channel, |c| rpc::confirm_passkey(c, answer)).await;
                }
                FactorOrder::AskPasskey { port, reply, .. } => {
                    pass(reply, channel, async |c| rpc::ask_passkey(c, resource.transpose()?, port).await).await;
                }
                FactorOrder::VerifyPasskey(answer, reply) => {
                    let verify = async |channel| {
                        let proven = rpc::verify_passkey(channel, answer).await?;
                        let _ = inner.send(Inner::Proven).await;
                        Ok(proven)
                    };
                    pass(reply, channel, verify).await;
                }
            }
        });
    }

    fn logout(&self, reply: Reply<local::LogoutReply>) {
        let channel = match self.link.channel() {
            Ok(channel) => channel,
            Err(why) => return drop(reply.send(Err(unreachable(why)))),
        };
        tokio::spawn(async move {
            let _ = reply.send(rpc::logout(channel).await.map(|()| local::LogoutReply {}));
        });
    }

    /// What a person named, or what to do instead.
    fn named(&self, name: &str) -> Result<ResourceId, Status> {
        if let Some(entry) = self.catalogue.find(name) {
            return Ok(entry.id);
        }
        let name = excerpt(name, NAME_MAX);
        Err(match self.catalogue.session() {
            None if self.catalogue.pending() => {
                Status::failed_precondition("this machine waits for an administrator to confirm it")
            }
            None if self.link.state().channel.is_none() => {
                unreachable(self.link.channel().err().unwrap_or_else(|| "not connected".to_owned()))
            }
            None => Status::failed_precondition("nobody is logged in: `umbra login`"),
            Some(_) => {
                Status::not_found(format!("there is no resource `{name}` for you; `umbra ls` shows what there is"))
            }
        })
    }

    fn connect(&mut self, name: &str, reply: Reply<local::ConnectReply>) {
        let resource = match self.named(name) {
            Ok(resource) => resource,
            Err(status) => return drop(reply.send(Err(status))),
        };
        self.wait_for(resource, WaiterReply::Connect(reply));
    }

    fn why(&mut self, name: &str, reply: Reply<local::WhyReply>) {
        if self.catalogue.find(name).is_none()
            && let Some((departed, (_, at, word))) = self.departed.get_key_value(name)
        {
            let answer = self.why_reply(departed.clone(), Some(&(*at, word.clone())), false);
            return drop(reply.send(Ok(answer)));
        }
        let resource = match self.named(name) {
            Ok(resource) => resource,
            Err(status) => return drop(reply.send(Err(status))),
        };
        match (self.book.word(&resource), self.book.standing(&resource)) {
            // Somebody's will ended it: which condition, and what to do, the controller says when it is asked.
            (Some((_, Word::Ended(_))), Standing::Denied(_)) => self.wait_for(resource, WaiterReply::Why(reply)),
            (Some((_, Word::Denied(_) | Word::Ended(_))), _) => {
                let answer = self.why_reply(self.name_of(&resource), self.book.word(&resource), false);
                drop(reply.send(Ok(answer)));
            }
            _ => self.wait_for(resource, WaiterReply::Why(reply)),
        }
    }

    /// Asks, unless it is reached already, and answers in [`Self::answer_waiters`].
    fn wait_for(&mut self, resource: ResourceId, reply: WaiterReply) {
        let now = self.runtime.now();
        if let Err(waiter) = wait_in(&mut self.waiters, Waiter { resource, since: now, reply }) {
            return waiter.reply.refuse(Status::resource_exhausted(TOO_MANY));
        }
        if self.book.standing(&resource) != Standing::Connected {
            self.book.ask(now, resource);
        }
    }

    /// Answers those whose question is settled.
    pub(super) fn answer_waiters(&mut self) {
        let now = self.runtime.now();
        for waiter in std::mem::take(&mut self.waiters) {
            let late = now.since(waiter.since) >= CONNECT_MAX;
            let gone = self.catalogue.entry(&waiter.resource).is_none();
            let connecting = self.book.standing(&waiter.resource) == Standing::Connecting;
            if connecting && !late && !gone {
                self.waiters.push(waiter);
                continue;
            }
            let Waiter { resource, reply, .. } = waiter;
            match reply {
                WaiterReply::Connect(reply) => drop(reply.send(Ok(self.connect_reply(&resource)))),
                WaiterReply::Why(reply) => {
                    let answer = self.why_reply(self.name_of(&resource), self.book.word(&resource), true);
                    drop(reply.send(Ok(answer)));
                }
            }
        }
        let here = self.stream.is_some() && self.asked.is_none();
        for (since, reply) in std::mem::take(&mut self.arrivals) {
            if here {
                let _ = reply.send(Ok(()));
            } else if now.since(since) >= ARRIVAL_MAX {
                let silent = || "the controller does not say what there is".to_owned();
                let _ = reply.send(Err(self.link.channel().err().unwrap_or_else(silent)));
            } else {
                self.arrivals.push((since, reply));
            }
        }
        let shown = self.catalogue.session().map(|s| s.id.to_string());
        for waiter in std::mem::take(&mut self.logins) {
            if shown.as_ref() == Some(&waiter.session) || now.since(waiter.since) >= LOGIN_SHOWN_MAX {
                let _ = waiter.reply.send(Ok(waiter.answer));
            } else {
                self.logins.push(waiter);
            }
        }
    }

    fn look_up(&self, name: HostName, reply: NameReply) {
        let Ok(channel) = self.link.channel() else { return drop(reply.send(None)) };
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let result = rpc::name_address(channel, &name).await;
            let _ = inner.send(Inner::Named { name, reply, result }).await;
        });
    }

    /// The route is set before the name is answered.
    pub(super) async fn on_named(&mut self, name: HostName, reply: NameReply, result: Named) {
        let (resource, address) = match result {
            Ok(found) => found,
            Err(why) => {
                tracing::debug!(%name, %why, "a name got no address");
                return drop(reply.send(None));
            }
        };
        if !self.catalogue.add_name(resource, name, address.clone()) {
            return drop(reply.send(None));
        }
        // A grant from before the name does not lead there: a new one does.
        let covered = |p: &model::net::Prefix| {
            self.book.grant(&resource).is_none_or(|held| held.prefixes.iter().any(|held| held.covers(p)))
        };
        if ![address.v4, address.v6].iter().flatten().all(covered) {
            self.book.ask(self.runtime.now(), resource);
        }
        self.publish().await;
        let _ = reply.send(Some(address));
    }
}

impl WaiterReply {
    fn refuse(self, status: Status) {
        match self {
            Self::Connect(reply) => drop(reply.send(Err(status))),
            Self::Why(reply) => drop(reply.send(Err(status))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_commands_wait_and_the_next_when_one_is_answered() {
        let mut line = Vec::new();
        assert!((0..LOCAL_WAITERS_MAX).all(|n| wait_in(&mut line, n).is_ok()));
        assert_eq!(wait_in(&mut line, 999), Err(999), "given back, so that it is refused");
        line.pop();
        assert_eq!(wait_in(&mut line, 999), Ok(()));
    }
}
