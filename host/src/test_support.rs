//! How do tests get a network of their own? A thread that leaves for a fresh network namespace; needs CAP_SYS_ADMIN.
#![allow(unsafe_code)]

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every request is the system allocator's, unchanged; counting allocates nothing.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as above.
        unsafe { std::alloc::System.dealloc(place, layout) }
    }
}

/// How often the calling thread has asked for memory, or for more of it.
pub fn allocations() -> usize {
    ALLOCATIONS.with(std::cell::Cell::get)
}

/// Asks until the answer is yes, for at most 20 s: what the kernel does soon, and mostly at once.
pub fn soon(what: &str, mut ask: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !ask() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "still not: {what}");
        std::thread::yield_now();
    }
}

/// Whether this process may make namespaces and change networks; says "skipped" when not.
pub fn privileged() -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let able = root && crate::checks::net_admin().is_ok();
    if !able {
        println!("skipped: needs root");
    }
    able
}

/// Moves the calling thread, and nothing else, into a fresh network namespace with loopback down.
pub fn enter_fresh_namespace() {
    // SAFETY: unshare takes flags by value and changes only the calling thread's view.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// Moves the calling thread, and nothing else, into a mount namespace whose changes stay there.
pub fn enter_fresh_mounts() {
    // SAFETY: unshare takes flags by value and changes only the calling thread's view.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(done, 0, "unshare: {}", std::io::Error::last_os_error());
    let status = std::process::Command::new("mount").args(["--make-rprivate", "/"]).status().expect("mount runs");
    assert!(status.success(), "mount --make-rprivate /");
}

/// A machine of its own: a thread in a fresh network namespace, with loopback up, that does what it is told.
pub struct Host {
    jobs: Option<std::sync::mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    thread_id: i32,
}

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime) + Send>;

impl Host {
    /// Makes one.
    pub fn new() -> Self {
        let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter_fresh_namespace();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            ip("link set lo up");
            // Link-local addresses are good at once: neighbour discovery waits for them, and gives up after 3 s.
            for scope in ["all", "default"] {
                let _ = crate::sysctl::set(&["net", "ipv6", "conf", scope, "accept_dad"], "0");
            }
            // SAFETY: gettid has no preconditions.
            ready.send(unsafe { libc::gettid() }).expect("the maker waits");
            for job in inbox {
                job(&runtime);
            }
        });
        let thread_id = started.recv().expect("a namespace");
        Self { jobs: Some(jobs), thread: Some(thread), thread_id }
    }

    /// Runs `work` there and waits for it. A panic there is a panic here.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.block_on(|| async { work() })
    }

    /// Runs the future there, under a runtime that stays on that thread.
    pub fn block_on<F, R>(&self, work: impl FnOnce() -> F + Send + 'static) -> R
    where
        F: Future<Output = R>,
        R: Send + 'static,
    {
        let (reply, answer) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |runtime| {
            let body = std::panic::AssertUnwindSafe(|| runtime.block_on(async { work().await }));
            let _ = reply.send(std::panic::catch_unwind(body));
        });
        self.jobs.as_ref().expect("running").send(job).expect("the host runs");
        match answer.recv().expect("an answer") {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Joins this host's `name` to the other's `peer_name` with a cable of two link ends, up, with these addresses.
    pub fn cable(&self, name: &'static str, addresses: &'static str, other: &Self, peer: (&'static str, &'static str)) {
        let far = other.thread_id;
        let (peer_name, peer_addresses) = peer;
        self.run(move || ip(&format!("link add {name} type veth peer name {peer_name} netns {far}")));
        for (host, name, addresses) in [(self, name, addresses), (other, peer_name, peer_addresses)] {
            host.run(move || {
                for address in addresses.split_whitespace() {
                    let nodad = if address.contains(':') { " nodad" } else { "" };
                    ip(&format!("addr add {address} dev {name}{nodad}"));
                }
                ip(&format!("link set {name} up"));
            });
        }
        for (host, name) in [(self, name), (other, peer_name)] {
            host.block_on(move || carries(name));
        }
        for address in peer_addresses.split_whitespace() {
            self.run(move || answers(address));
        }
        for address in addresses.split_whitespace() {
            other.run(move || answers(address));
        }
    }
}

/// Waits until a closed port of this address (and its prefix length) answers: the kernel joins the groups of neighbour
/// discovery some time after an address was added.
fn answers(address: &str) {
    let address: std::net::IpAddr = address.split('/').next().and_then(|text| text.parse().ok()).expect("address");
    let own: std::net::IpAddr =
        if address.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    for _ in 0..100 {
        let socket = std::net::UdpSocket::bind((own, 0)).expect("bind");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).expect("timeout");
        socket.connect((address, 9)).expect("connect");
        socket.send(b"there?").expect("send");
        match socket.recv(&mut [0; 8]) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
            _ => {}
        }
    }
    panic!("{address} does not answer");
}

/// Waits until a link end takes packets: one that came up before its peer drops them until the kernel noticed.
async fn carries(name: &str) {
    let mut watch = crate::netlink::Watch::open().await.expect("watch");
    loop {
        let shown = std::process::Command::new("ip").args(["link", "show", name]).output().expect("ip runs");
        if String::from_utf8_lossy(&shown.stdout).contains("qdisc noqueue state UP") {
            return;
        }
        watch.next().await.expect("a change");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split_whitespace()).status().expect("ip runs");
    assert!(status.success(), "ip {arguments}");
}

/// A folder of mode 0700 that goes with the value.
pub struct Folder(std::path::PathBuf);

impl Folder {
    /// Makes one under the system's temporary folder.
    pub fn new() -> Self {
        // With the number of its owner: a lab that starts removes those of owners who are gone.
        let random = u128::from_le_bytes(crate::entropy::random().expect("random"));
        let name = format!("umbra-test-{}-{random:032x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        crate::keyfile::create_folder(&path).expect("a temporary folder");
        Self(path)
    }
    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
