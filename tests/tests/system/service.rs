//! Do the three programs get on with a service manager, and with its way to reload?

use crate::support::{SOON, world};
use host::namespace::Signal;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Instant;
use umbra_tests::lab::{Daemon, Name, World};
use umbra_tests::perimeter;

/// What stands in for systemd on one host: it listens all the time, because what does not fit in the socket's short queue is
/// lost (net.unix.max_dgram_qlen).
struct Manager {
    messages: mpsc::Receiver<String>,
    name: Name,
}

impl Manager {
    fn on(world: &World, name: Name) -> Self {
        let path = world.host(name).outside_path("/var/lib/umbra/notify").unwrap();
        let socket = UnixDatagram::bind(path).unwrap();
        let (sender, messages) = mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(len) = socket.recv(&mut bytes) {
                if sender.send(String::from_utf8_lossy(&bytes[..len]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { messages, name }
    }

    fn start(&self, world: &World, words: &[&str]) -> Daemon {
        let mut command = world.host(self.name).command(words[0]);
        command.args(&words[1..]).env("NOTIFY_SOCKET", "/var/lib/umbra/notify").env("WATCHDOG_USEC", "1000000");
        world.host(self.name).start(words[0], command).unwrap()
    }

    /// Waits for a message that has this line.
    fn hear(&self, line: &str, daemon: &Daemon) -> String {
        let until = Instant::now() + 2 * SOON;
        loop {
            let heard = self.messages.recv_timeout(until.saturating_duration_since(Instant::now()));
            let message = heard.unwrap_or_else(|error| panic!("no {line}: {error}: {:?}", daemon.lines()));
            if message.lines().any(|said| said == line) {
                return message;
            }
        }
    }

    /// Reloads, and gives the line of the log that tells of it.
    fn reload(&self, world: &World, daemon: &Daemon, program: &str, settings: &str, told: &str) -> String {
        perimeter::write_file(world, self.name, &format!("{program}.env"), settings.as_bytes()).unwrap();
        let mark = daemon.mark();
        daemon.signal(Signal::Hangup);
        let reloading = self.hear("RELOADING=1", daemon);
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        self.hear("READY=1", daemon);
        daemon.wait_for_line_after(mark, told, SOON).unwrap()
    }

    /// Alive; reloads what can be; keeps what was when the file has a mistake; ends well, and says so.
    fn see_through(&self, world: &World, daemon: &Daemon, program: &str) {
        self.hear("WATCHDOG=1", daemon);
        let told = self.reload(world, daemon, program, "UMBRA_LOG=trace\nUMBRA_PORT=7\n", "was read again");
        assert!(told.contains("log: trace") && told.contains("these take a restart: UMBRA_PORT"), "{told}");
        daemon.wait_for_line(" TRACE ", SOON).unwrap();
        let told = self.reload(world, daemon, program, "UMBRA_LOG=off\nnonsense\n", "stay as they were");
        assert!(told.contains("line 2"), "{told}");
        let told = self.reload(world, daemon, program, "UMBRA_LOG=\"a=b=c\"\n", "stay as they were");
        assert!(told.contains("UMBRA_LOG"), "{told}");
        let told = self.reload(world, daemon, program, "UMBRA_LOG=info\n", "was read again");
        assert!(told.contains("log: info"), "{told}");
        self.hear("WATCHDOG=1", daemon);
        daemon.signal(Signal::Terminate);
        self.hear("STOPPING=1", daemon);
        let ended = daemon.wait_for_end(SOON).unwrap();
        assert!(ended.is_some_and(|status| status.success()), "{:?}", daemon.lines());
    }
}

#[test]
fn each_program_tells_its_service_manager_how_it_is() {
    let world = world();
    let [on_controller, on_gateway, on_laptop] =
        [Name::Controller, Name::Gateway, Name::Laptop].map(|name| Manager::on(&world, name));
    let words =
        ["init", "--trust-domain", perimeter::DOMAIN, "--endpoint", "controller:443", "--pool", perimeter::POOL];
    perimeter::admin(&world, &words).unwrap();
    let controller = on_controller.start(&world, &["umbra-controller", "serve"]);
    on_controller.hear("READY=1", &controller);
    perimeter::admin(&world, &["status"]).unwrap();

    perimeter::admin(&world, &["site", "add", "hq", "--prefix", "10.20.0.0/24"]).unwrap();
    let join = perimeter::carry_join_file(&world, Name::Gateway, &["--gateway", "--site", "hq"]).unwrap();
    let gateway = on_gateway.start(&world, &["umbra-gateway", "up", "--join", &join, "--yes"]);
    on_gateway.hear("READY=1", &gateway);
    on_gateway.hear("STATUS=connected to the controller", &gateway);

    let client = on_laptop.start(&world, &["umbra", "daemon"]);
    on_laptop.hear("READY=1", &client);
    perimeter::join_laptop(&world, Name::Laptop).unwrap();
    on_laptop.hear("STATUS=connected to the controller", &client);
    // To be idle, the process executes itself anew: the same for its manager.
    perimeter::umbra(&world, Name::Laptop, &["down"]).unwrap();
    on_laptop.hear("STATUS=down", &client);
    on_laptop.hear("WATCHDOG=1", &client);
    perimeter::umbra(&world, Name::Laptop, &["up"]).unwrap();

    on_laptop.see_through(&world, &client, "client");
    on_gateway.see_through(&world, &gateway, "gateway");
    on_controller.see_through(&world, &controller, "controller");
}
