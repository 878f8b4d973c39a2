//! Every bound of Umbra, with its unit and its reason. A queue, table or loop without a line here is a defect.

use std::time::Duration;

// -- packets ---------------------------------------------------------------------------------------------------------
/// MTU of the TUN device, bytes: 1,500 less IPv6 (40), UDP (8) and WireGuard data (32). The field's usual value.
pub const TUN_MTU: usize = 1420;
/// Largest datagram or frame that is read, bytes.
pub const DATAGRAM_MAX: usize = 65_535;
/// Datagrams of one message with UDP segmentation: what every kernel that knows it takes (UDP_MAX_SEGMENTS of Linux 4.18).
pub const SEGMENTS_MAX: usize = 64;
/// Bytes of one such message: an IPv4 packet of 65,535 with its headers, rounded down.
pub const SEGMENTED_BYTES_MAX: usize = 65_000;
/// Messages that one system call sends. More save nothing that can be measured; each takes 400 bytes of stack.
pub const SEND_MESSAGES_MAX: usize = 32;
/// Times that one message is sent again because the socket told an error of an earlier one, or a signal came.
pub const SEND_AGAIN_MAX: usize = 8;
/// Destinations of which a socket remembers that they take no segmented messages of a size.
pub const NARROW_PATHS_MAX: usize = 64;
/// How long it remembers. A path that got wide again is slow for that long, one that is narrow costs one system call.
pub const NARROW_PATH_LIFE: Duration = Duration::from_secs(60);
/// Packets, or super-packets, that wait in a TUN device for us: txqueuelen. The driver's 500 overflow in a burst.
pub const TUN_QUEUE: usize = 1_000;
/// Queues of a TUN device, each with that room: with 32, a flow shares its queue with one given other in 3 of 100 cases.
pub const TUN_QUEUES: usize = 32;
/// Packets that one of its queues gives before the next has its turn, and
pub const TUN_TURN_FRAMES: usize = 16;
/// bytes of them: half of the largest super-packet, so that such a one is a turn.
pub const TUN_TURN_BYTES: usize = 32_768;
/// Bytes that WireGuard adds to a packet: 16 of header, 16 of tag (paper, section 5.4.6).
pub const WIREGUARD_OVERHEAD: usize = 32;
/// Segments of one super-packet: 65,535 bytes in pieces of 36, the smallest that a Linux sender makes (its least MSS is 48 with
/// 12 of options).
pub const SUPER_SEGMENTS_MAX: usize = 2_048;
/// Frames that one packet thread takes off the TUN before it sends what became of them.
pub const BATCH_FRAMES_MAX: usize = 256;
/// Bytes that it collects for that: about three full trains; more would only wait.
pub const BATCH_BYTES_MAX: usize = 200_000;
/// Empty buffers that one packet thread keeps: 16 of 64 KiB.
pub const SPARE_BUFFERS_MAX: usize = 16;
/// Packets that wait for a tunnel or a decision, for each resource or peer. A burst of a TCP opening, no more.
pub const WAITING_PACKETS_MAX: usize = 16;
/// Bytes of them: as many as if each were one packet of the TUN. A datagram that was put together out of fragments takes the
/// room of several, and one beyond it does not wait.
pub const WAITING_BYTES_MAX: usize = WAITING_PACKETS_MAX * TUN_MTU;
/// Resources for which packets may wait at once.
pub const WAITING_QUEUES_MAX: usize = 256;
/// How long a packet may wait for a decision before it is answered with an ICMP error.
pub const WAITING_MAX: Duration = Duration::from_secs(10);
/// IPv6 extension headers in front of a transport header. RFC 8200 section 4.1 names six in its recommended order.
pub const EXTENSION_HEADERS_MAX: usize = 6;
/// Options of one IPv6 options header: 8 x 256 bytes of single-byte padding.
pub const IP_OPTIONS_MAX: usize = 2_048;
/// Datagrams of which fragments are kept, in all. With the bytes below it is memory that a gateway may lose to it: 4 MiB.
pub const FRAGMENTED_MAX: usize = 1_024;
/// Of one source (a pairing, or an address behind the TUN): what a burst of a program has under way at once.
pub const FRAGMENTED_PER_SOURCE_MAX: usize = 64;
/// Fragments of one datagram: 65,535 bytes on a path of 576 (RFC 791) are 119.
pub const FRAGMENTS_MAX: usize = 128;
/// Bytes of all fragments that are kept, with [`FRAGMENT_COST`].
pub const FRAGMENT_BYTES_MAX: usize = 4 << 20;
/// Of one source: seven of the largest datagrams, 1/8 of all.
pub const FRAGMENT_BYTES_PER_SOURCE_MAX: usize = FRAGMENT_BYTES_MAX / 8;
/// What keeping a fragment, or a datagram, costs besides its bytes, counted so that tiny ones are not free. Bytes.
pub const FRAGMENT_COST: usize = 64;
/// How long a datagram may take to become whole: the value of RFC 791 (section 3.2). Fragments in a tunnel are made at its end,
/// so they come within a round trip; the longer they are kept, the sooner 65,536 identifications come round.
pub const FRAGMENT_LIFE: Duration = Duration::from_secs(15);
/// Bytes that every path of IPv6 takes (RFC 8200 section 5).
pub const V6_MTU_MIN: usize = 1_280;

// -- peers and pairings ----------------------------------------------------------------------------------------------
/// Peers of one engine. A controller's nodes, a gateway's pairings; boringtun's index has 24 bits.
pub const PEERS_MAX: usize = 100_000;
/// Data keys that live on one client at a time; an initiation is tried against each (design: at most 64).
pub const DATA_KEYS_MAX: usize = 64;
/// Candidate endpoints for one peer.
pub const ENDPOINTS_MAX: usize = 8;
/// How long a handshake is tried before it is given up and what waits for it is dropped (WireGuard paper, section 6.1:
/// Rekey-Attempt-Time).
pub const HANDSHAKE_ATTEMPT_MAX: Duration = Duration::from_secs(90);
/// Initiations and knocks whose MAC1 held, handled in a second; beyond it, cookies (WireGuard paper, section 5.3).
pub const HANDSHAKES_PER_SECOND: u64 = 1_000;
/// Bytes of what is no data: the largest is a knock, and what is larger is nobody's.
pub const HANDSHAKE_BYTES_MAX: usize = 512;
/// Cookie replies of each key in a second. Whoever asks beyond it without one is not answered: at 10,000 making and sending
/// them takes a tenth of a processor. Of 100,000 forged askers a second each tenth is answered, and so is a newcomer among them.
pub const COOKIES_PER_SECOND: u64 = 10_000;
/// Of the handshakes, how many one source address (IPv4 address, IPv6 /64) may use when the limit is reached. Laptops behind one
/// NAT share it.
pub const HANDSHAKES_PER_SOURCE: u16 = 125;
/// Slots in which sources are counted; sources that fall together share their count.
pub const HANDSHAKE_SOURCES: usize = 4_096;

// -- knocks ----------------------------------------------------------------------------------------------------------
/// Provisional peers of a controller at once.
pub const PROVISIONAL_MAX: usize = 1_024;
/// How many of them one join key may own: 1/8.
pub const PROVISIONAL_PER_KEY_MAX: usize = PROVISIONAL_MAX / 8;
/// How long a provisional peer lives.
pub const PROVISIONAL_LIFE: Duration = Duration::from_secs(60);
/// How long a control key is used, unless an option says otherwise; and the longest that one can.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How long a new control key may take to be answered, after the controller has heard of it.
pub const KEY_PROOF_MAX: Duration = Duration::from_secs(10);
/// After how long without any answer a node knocks with its recovery secret.
pub const RECOVER_AFTER: Duration = Duration::from_secs(15);
/// How often it does so, at most.
pub const RECOVER_EVERY: Duration = Duration::from_secs(60);
/// How long one such attempt may take.
pub const RECOVER_MAX: Duration = Duration::from_secs(10);
/// How long a control tunnel that has a successor is still listened to: what was under way when it took over.
pub const SUCCEEDED_KEEP: Duration = Duration::from_secs(10);
/// Pairs of keys that may follow the one in use on one control tunnel: either end has a next key at most.
pub const SUCCESSORS_MAX: usize = 3;
/// Join keys that may admit at once; each costs 49 tags.
pub const JOIN_KEYS_MAX: usize = 4_096;
/// How long an ephemeral node may be silent until it is removed: longer than any restart, shorter than anybody wants to see the
/// remains of a job that has ended.
pub const EPHEMERAL_GONE: Duration = Duration::from_secs(600);
/// After how long a silence of one is written down: twice the longest pause between two probes ([`INTERVAL_MAX`]).
pub const EPHEMERAL_SILENT: Duration = Duration::from_secs(120);
/// Provisional peers that one node may be at once, when it recovers.
pub const PROVISIONAL_PER_NODE_MAX: usize = 2;
/// Nodes whose recovery secret is listened to; each costs 49 tags of about 24 bytes. Others have to join again.
pub const RECOVERY_KEYS_MAX: usize = 20_000;
/// How far a knocking machine's clock may be off. A wrong clock must not mean silence, and replay gains nothing.
pub const KNOCK_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Hashes of accepted knocks that are remembered.
pub const KNOCK_MEMORY_MAX: usize = 65_536;
/// Knocks handed to the controller in a second.
pub const KNOCKS_PER_SECOND: u64 = 200;

// -- flows -----------------------------------------------------------------------------------------------------------
/// Flows of one gateway or client.
pub const FLOWS_MAX: usize = 262_144;
/// Flows of one grant.
pub const FLOWS_PER_GRANT_MAX: usize = 4_096;
/// Flows of one peer.
pub const FLOWS_PER_PEER_MAX: usize = 8_192;
/// Flows to one real address: the kernel masquerades all of them behind 64k ports.
pub const FLOWS_PER_TARGET_MAX: usize = 32_768;
/// Records of ended flows that a gateway keeps for its controller, about 100 bytes each; beyond it the oldest go, counted.
pub const FLOW_RECORDS_MAX: usize = 16_384;
/// Records of ended flows in one report.
pub const FLOW_REPORT_MAX: usize = 512;
/// Reports of one gateway that wait to be written; a gateway sends the next one when the last one is kept.
pub const FLOW_REPORTS_WAITING_MAX: usize = 4;
/// Bytes of one file of flow records.
pub const FLOW_FILE_BYTES_MAX: u64 = 4 << 20;
/// Files of flow records of one gateway; beyond it the oldest goes.
pub const FLOW_FILES_MAX: usize = 8;
/// Flow records in one answer to an administrator.
pub const FLOW_LIST_MAX: usize = 1_000;
/// Idle time of a TCP flow (RFC 5382 REQ-5: not less than 2 h 4 min).
pub const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Idle time of a TCP flow that was reset or closed from both sides.
pub const TCP_CLOSED_IDLE: Duration = Duration::from_secs(10);
/// Idle time of a UDP flow (RFC 4787 REQ-5: 5 minutes are recommended).
pub const UDP_IDLE: Duration = Duration::from_secs(300);
/// Idle time of an ICMP query (RFC 5508 REQ-1: not less than 60 s).
pub const ICMP_IDLE: Duration = Duration::from_secs(60);
/// ICMP errors that one engine originates in a second (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
pub const ICMP_ERRORS_PER_SECOND: u64 = 1_000;
/// Source ports that are tried for a new flow towards a service when the client's own is taken.
pub const NAT_PORTS_TRIED_MAX: u16 = 64;
/// Flows that are looked at to find the longest idle one.
pub const EVICT_LOOK_MAX: usize = 64;
/// Flows and packets that one call to expire ends; the rest comes with the next.
pub const EXPIRE_BATCH_MAX: usize = 1_024;
/// Names whose addresses a gateway remembers.
pub const RESOLVED_NAMES_MAX: usize = 4_096;
/// Addresses of one name that are looked at.
pub const RESOLVED_ADDRESSES_MAX: usize = 16;
/// For how many names or resources one device may have packets waiting on a gateway: 1/8 of all.
pub const WAITING_QUEUES_PER_DEVICE_MAX: usize = WAITING_QUEUES_MAX / 8;
/// Refused targets of which a gateway remembers that it told.
pub const REFUSED_MEMORY_MAX: usize = 1_024;
/// Shortest time between two reports of one refused target.
pub const REFUSED_REPORT_EVERY: Duration = Duration::from_secs(30);

// -- grants ----------------------------------------------------------------------------------------------------------
/// Grants on one gateway; the pool 198.18.0.0/15 has 131,070 addresses.
pub const GRANTS_PER_GATEWAY_MAX: usize = 100_000;
/// Grants of one device.
pub const GRANTS_PER_DEVICE_MAX: usize = 256;
/// Rules of one grant.
pub const RULES_PER_GRANT_MAX: usize = 256;
/// Shortest lease.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Lease when the resource names none.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3600);
/// Tombstones of ended grants outlive the longest lease by this.
pub const TOMBSTONE_EXTRA: Duration = Duration::from_secs(3600);
/// Tombstones of one device: one every 5.5 s, all the time that they live. Beyond it the device waits.
pub const TOMBSTONES_PER_DEVICE_MAX: usize = 16_384;
/// Tombstones of an organisation, about 200 bytes each.
pub const TOMBSTONES_MAX: usize = 1_000_000;
/// Changes that the controller remembers for each gateway; one that lags further behind gets a snapshot.
pub const CHANGES_PER_GATEWAY_MAX: usize = 4_096;
/// A grant joins a pairing only if that will live at least this long: a gateway's count runs ahead by a message's way,
/// and a pairing that it has dropped must not be made again.
pub const PAIRING_JOIN_MIN: Duration = Duration::from_millis(250);
/// Dropped pairings that a gateway remembers, so that none of them comes back.
pub const GONE_PAIRINGS_MAX: usize = 100_000;

// -- organisation ----------------------------------------------------------------------------------------------------
/// Names of one resource.
pub const NAMES_PER_RESOURCE_MAX: usize = 32;
/// Names below `*.suffix`es whose addresses one client remembers, of all resources together. How many one resource may have
/// follows from [`RULES_PER_GRANT_MAX`]: each has two addresses, and each of those one rule for each service.
pub const SUFFIX_NAMES_MAX: usize = 1_024;
/// New names below suffixes that one device may have made: any program on it makes one with a query, and others want theirs.
/// Of one resource it may make half.
pub const SUFFIX_NAMES_PER_DEVICE_MAX: usize = 256;
/// New names of one device in a minute: each is written to disk, and looked up by every gateway of its site. A page has some ten.
pub const SUFFIX_NAMES_PER_MINUTE: u32 = 30;
/// New control keys that one node may announce in a minute: each is written to disk. The shortest life of a key is one second.
pub const KEY_CHANGES_PER_MINUTE: u32 = 60;
/// Starts, and changes of what it says of itself, that one gateway may tell in a minute: each is written to disk.
pub const GATEWAY_STARTS_PER_MINUTE: u32 = 30;
/// Bytes of the random number of a run of a node's program.
pub const RUN_ID_LEN: usize = 16;
/// Runs before the newest that are remembered of one node.
pub const RUNS_PER_NODE_MAX: usize = 16;
/// Nodes of which runs are remembered; beyond it the one that was silent longest is forgotten. At most 400 bytes each.
pub const RUNS_MAX: usize = 16_384;
/// How often a run that was followed by another has to speak again until its node counts as copied: the first may be a late word.
pub const COPY_STRIKES: u32 = 2;
/// Alarms that `status` shows, the newest first.
pub const ALARMS_MAX: usize = 64;
/// How long `status` shows that a node was copied.
pub const ALARM_KEEP: Duration = Duration::from_secs(7 * 86_400);
/// Nodes whose changes are counted, each kind by itself; beyond it the one that changed longest ago is forgotten. 40 bytes each.
pub const RATES_MAX: usize = 16_384;
/// Members of any list in one request.
pub const LIST_MAX: usize = 4_096;
/// Bytes of a display name.
pub const NAME_MAX: usize = 64;
/// Characters of what a service account is for: two lines of a terminal.
pub const ACCOUNT_DESCRIPTION_MAX: usize = 160;
/// Bytes of one policy file.
pub const POLICY_BYTES_MAX: usize = 1 << 20;
/// Depth of parentheses and brackets in a policy; the parser aborts the process near 400.
pub const POLICY_DEPTH_MAX: usize = 64;
/// Operators of one policy: a long chain nests as deep as parentheses do. Lists of names are not operators.
pub const POLICY_OPERATORS_MAX: usize = 64;
/// Stack on which policies are parsed, bytes: what both limits above need, four times over, in a debug build.
pub const POLICY_STACK_BYTES: usize = 64 << 20;
/// Stack that the deepest policy needs to be evaluated, bytes: 45 KiB for an operator in a debug build, 5 KiB else.
pub const DECIDE_STACK_BYTES: usize = if cfg!(debug_assertions) { 4 << 20 } else { 512 << 10 };
/// Policy files of one revision.
pub const POLICY_FILES_MAX: usize = 256;
/// Bytes of all policy files of one revision: it is stored twice (in force, in the history), JSON may double it, and both
/// go into one commit of [`COMMIT_BYTES_MAX`].
pub const POLICY_TOTAL_BYTES_MAX: usize = 3 << 19;
/// Bytes of a policy file's name.
pub const POLICY_FILE_NAME_MAX: usize = 1_024;
/// Bytes of one policy, from its first annotation to its semicolon: bounds what a single decision may compute with.
pub const POLICY_EACH_BYTES_MAX: usize = 64 << 10;
/// Bytes of one string of a policy, as written: `like` takes time with the product of two of them.
pub const POLICY_STRING_MAX: usize = 1_024;
/// How long policies may be compiled for an administrator's call, which itself may take [`ADMIN_CALL_MAX`].
pub const POLICY_COMPILE_MAX: Duration = Duration::from_secs(45);
/// Revisions that are compiled at once for administrators; each takes a core and [`POLICY_STACK_BYTES`] of stack.
pub const POLICY_COMPILES_AT_ONCE_MAX: usize = 1;
/// Policies of one revision.
pub const POLICIES_MAX: usize = 20_000;
/// Bytes of a policy's `@reason`.
pub const POLICY_REASON_MAX: usize = 256;
/// Bytes of the name of a policy's condition.
pub const POLICY_CONDITION_MAX: usize = NAME_MAX;
/// Decisions that one question about everybody's access may take: some seconds.
pub const ACCESS_DECISIONS_MAX: usize = 100_000;
/// Decisions that the comparison of a new revision with the one in force may take before it is applied: some tens of
/// milliseconds, for what it takes away waits for it.
pub const APPLY_DECISIONS_MAX: usize = 10_000;
/// Rows of who can reach what in one answer.
pub const ACCESS_ROWS_MAX: usize = 10_000;
/// Bytes of these rows, so that they fit into one message of [`RPC_MESSAGE_MAX`].
pub const ACCESS_BYTES_MAX: usize = 2 << 20;
/// Examples of whose access a new revision of the policies changes.
pub const ACCESS_EXAMPLES_MAX: usize = 20;
/// Ids of policies that are listed as added, removed or changed, each.
pub const POLICY_DIFF_IDS_MAX: usize = 50;
/// Problems that are listed for one refused revision, and warnings for one that is accepted.
pub const POLICY_PROBLEMS_MAX: usize = 100;
/// Characters of one problem or warning; Cedar quotes what it does not understand.
pub const POLICY_PROBLEM_CHARS_MAX: usize = 512;
/// Reasons in one deny; a person reads a few of them.
pub const REASONS_MAX: usize = 16;
/// Life of a session when none is configured.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Longest life of a session that can be configured.
pub const SESSION_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest interval or life that can be configured.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How often every grant is decided again without a reason, unless configured.
pub const REVIEW_EVERY: Duration = Duration::from_secs(5);
/// Longest interval between such reviews, or between probes of the control link, that can be configured.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Failed log-ins of one user, or from one device, within [`LOGIN_WINDOW`], after which both wait.
pub const LOGIN_FAILURES_MAX: u32 = 10;
/// See [`LOGIN_FAILURES_MAX`].
pub const LOGIN_WINDOW: Duration = Duration::from_secs(900);
/// Life of the one-time owner token.
pub const OWNER_TOKEN_LIFE: Duration = Duration::from_secs(900);
/// Bytes of the key that seals secrets in the store.
pub const SEAL_KEY_LEN: usize = 32;
/// Uses of one join key.
pub const JOIN_KEY_USES_MAX: u32 = 1_000;
/// Life of a join key when none is given.
pub const JOIN_KEY_LIFE: Duration = Duration::from_secs(3600);
/// Longest life of a join key.
pub const JOIN_KEY_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of a password: argon2 takes any length, a stranger's megabyte is only work.
pub const PASSWORD_MAX: usize = 1_024;
/// Characters of a new password (NIST SP 800-63B-4 section 3.1.1.2).
pub const PASSWORD_MIN: usize = 8;
/// Wrong codes of a second factor in a row, after which its user waits (NIST SP 800-63B, 3.2.2 asks for at most 100).
pub const CODE_FAILURES_MAX: u32 = 10;
/// How long the user waits after the first [`CODE_FAILURES_MAX`] wrong codes; each time twice as long as before.
pub const CODE_WAIT: Duration = Duration::from_secs(900);
/// The longest such wait. Whoever holds a password and guesses codes has one chance in 33,000 a day.
pub const CODE_WAIT_MAX: Duration = Duration::from_secs(86_400);
/// How old the second factor may be with which a person changes something of the organisation from afar.
pub const ADMIN_FACTOR_AGE: Duration = Duration::from_secs(600);
/// Changes that people with a role may make from one device in a minute: a person types some, a script of theirs waits.
pub const ADMIN_CHANGES_PER_MINUTE: u32 = 60;
/// Questions of theirs in a minute. An export of the trail takes one for every 16 records.
pub const ADMIN_READS_PER_MINUTE: u32 = 600;
/// Tries of the key of the last resort in a minute, wrong ones too: each is written down. Nobody guesses 256 bits, but a person
/// may mistype.
pub const BREAK_GLASS_PER_MINUTE: u32 = 5;
/// Calls to administer that one client's daemon hands on at once; each may hold two messages of [`RPC_MESSAGE_MAX`].
pub const ADMIN_RELAYS_MAX: usize = 4;
/// How old a log-in, or a second factor where there is one already, may be for changes of the second factors.
pub const FACTOR_CHANGE_AGE: Duration = Duration::from_secs(600);
/// How long a second factor that was begun waits for its first code.
pub const FACTOR_PENDING: Duration = Duration::from_secs(600);
/// Second factors of one user: a phone, its successor, a spare one.
pub const FACTORS_PER_USER_MAX: usize = 8;
/// Codes and changes of second factors from one device in a minute: each is written to disk.
pub const FACTOR_CALLS_PER_MINUTE: u32 = 30;
/// Recovery codes of one user, made at once.
pub const RECOVERY_CODES: usize = 10;
/// How long a passkey's answer is waited for, and how long the page that asks for it stands.
pub const PASSKEY_LIFE: Duration = Duration::from_secs(300);
/// Answers of passkeys that are waited for at once, one a device; beyond it the oldest is not. 200 bytes each.
pub const PASSKEY_CEREMONIES_MAX: usize = 4_096;
/// Bytes of a passkey's answer: with an RSA key of 8,192 bits and the longest id, in base 64, 6 KiB.
pub const PASSKEY_ANSWER_MAX: usize = 16 << 10;
/// Bytes of what a browser is asked: the ids of [`FACTORS_PER_USER_MAX`] passkeys, in base 64, take 11 KiB at most.
pub const PASSKEY_OPTIONS_MAX: usize = 16 << 10;
/// Bytes of a credential's id (WebAuthn Level 3, section 4).
pub const CREDENTIAL_ID_MAX: usize = 1_023;
/// How deep items of CBOR lie within others (CTAP 2.1, section 8).
pub const CBOR_DEPTH_MAX: usize = 4;
/// Items of CBOR that are read from one answer: a key has five pairs, an attestation three.
pub const CBOR_ITEMS_MAX: usize = 128;
/// Bytes of a JSON Web Token. Those of large directories, with hundreds of groups, have some 10 KiB.
pub const TOKEN_MAX: usize = 16 << 10;
/// Bytes of a set of keys (JWKS), and keys in it: an issuer has two or three.
pub const KEY_SET_MAX: usize = 64 << 10;
/// See [`KEY_SET_MAX`].
pub const KEYS_MAX: usize = 64;
/// Audiences of one token.
pub const AUDIENCES_MAX: usize = 8;
/// Characters of a token's subject (OpenID Connect Core 1.0, section 2).
pub const SUBJECT_MAX: usize = 255;
/// How far a token may come from the future: clocks differ.
pub const TOKEN_SKEW: Duration = Duration::from_secs(60);
/// Bytes of a token with which a workload joins: it fits into one request of [`ENROL_BYTES_MAX`] with all else. Those of build systems
/// and orchestrators have some 2 KiB.
pub const IDENTITY_TOKEN_MAX: usize = 12 << 10;
/// Longest life of such a token: it can be stolen for as long, and is remembered for as long.
pub const IDENTITY_TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Tokens that one machine that enrols may show within [`PROVISIONAL_LIFE`].
pub const IDENTITY_TRIES_MAX: usize = 8;
/// Rules whose tokens let workloads in.
pub const TRUSTS_MAX: usize = 256;
/// Claims that one such rule asks for.
pub const TRUST_CLAIMS_MAX: usize = 16;
/// Used tokens that are remembered until they end, about 300 bytes each.
pub const SPENT_TOKENS_MAX: usize = 65_536;
/// Those of one rule: 1/8, so that it takes no other's places.
pub const SPENT_TOKENS_PER_TRUST_MAX: usize = SPENT_TOKENS_MAX / 8;
/// How long the join file of such a rule says that it is good: as long as the controller's key is, unless told otherwise.
pub const FEDERATION_FILE_LIFE: Duration = AUTHORITY_LIFE;
/// Bytes of what is typed as a code.
pub const CODE_MAX: usize = 64;
/// Password hashes that are computed at once; each takes 19 MiB and a core for about 30 ms.
pub const HASHES_AT_ONCE_MAX: usize = 4;
/// Users and devices whose failed log-ins are counted; beyond it the oldest count goes.
pub const LOGIN_COUNTS_MAX: usize = 16_384;
/// How often a change is decided again because what it read changed meanwhile.
pub const CHANGE_TRIES_MAX: usize = 16;
/// How long a change, once durable, may take to be seen by the controller's own readers.
pub const CHANGE_SEEN_MAX: Duration = Duration::from_secs(5);
/// Policy revisions that are kept for a roll-back.
pub const POLICY_HISTORY_MAX: u64 = 20;
/// How far before its own beginning a log-in or a join key still holds: a controller's clock may be corrected by so much. Set back
/// further, it would make them live for as long as it was wrong.
pub const CLOCK_BACK_MAX: Duration = Duration::from_secs(600);
/// How long ended sessions and join keys can still be listed.
pub const ENDED_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many of them go with one change.
pub const SWEEP_MAX: usize = 64;
/// Machines that call themselves the same and get `-2`, `-3`, ... behind their names.
pub const LIKE_NAMES_MAX: u32 = 1_000;
/// Groups of one user, tags of one resource.
pub const GROUPS_MAX: usize = 256;
/// How long the controller uses one key and one certificate authority before it announces what follows them, so that they
/// end at this age; unless an option says otherwise.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the controller's old key and authority and the new ones are both good. In the middle of it they change places.
pub const AUTHORITY_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3600);
/// From how much of that on an administrator is warned of nodes that have not heard of the successor.
pub const AUTHORITY_WARN: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often it is looked whether the controller's keys are due.
pub const AUTHORITY_EVERY: Duration = Duration::from_millis(500);
/// Bytes of a certificate authority's certificate that a node takes.
pub const AUTHORITY_BYTES_MAX: usize = 4 << 10;
/// Longest life in a CA certificate; when an authority ends is said when its successor is announced.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of an SVID.
pub const SVID_LIFE: Duration = Duration::from_secs(3600);
/// How long after its end a certificate may still be renewed, from the node's living, unrevoked tunnel.
pub const SVID_LATE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a connection lives that may do nothing but renew.
pub const LATE_CONNECTION_LIFE: Duration = Duration::from_secs(3);
/// Shortest time between two requests for a resource that was denied.
pub const DENY_HOLD: Duration = Duration::from_secs(30);

// -- store and RPC ---------------------------------------------------------------------------------------------------
/// Bytes of a value in the store; larger ones are cut into chunks (sled would write a blob file that is never synced).
pub const STORE_VALUE_MAX: usize = 4_096;
/// Bytes of a key in the store; sled keeps up to 256 keys in one index page, which must stay far below its blob threshold.
pub const STORE_KEY_MAX: usize = 128;
/// Keys in the store. All but the audit trail is held in memory, too: about 1 GB of small records.
pub const STORE_ITEMS_MAX: u64 = 4_000_000;
/// Bytes of all values in the store.
pub const STORE_BYTES_MAX: u64 = 2 << 30;
/// Expectations, puts and deletes of one commit, each.
pub const COMMIT_KEYS_MAX: usize = 8_192;
/// Bytes of one commit's keys and values: room for a policy of [`POLICY_BYTES_MAX`] and more.
pub const COMMIT_BYTES_MAX: usize = 8 << 20;
/// Transactions with ends of grants that wait for a disk that takes them. What does not find room acts all the same, and is
/// decided again after a restart.
pub const UNWRITTEN_ENDS_MAX: usize = 4_096;
/// Audit entries of one commit.
pub const COMMIT_AUDIT_MAX: usize = 1_024;
/// Commits that wait for the store's writer; more callers wait for a place.
pub const COMMIT_QUEUE_MAX: usize = 1_024;
/// Commits that share one flush to disk.
pub const COMMIT_GROUP_MAX: usize = 256;
/// Bytes of keys and values that share one flush to disk; the commit that passes it is the last of its group.
pub const COMMIT_GROUP_BYTES_MAX: usize = 4 << 20;
/// Bytes of its disk that the store leaves free: below it no change makes a new record. Room for what takes access away,
/// and for the log of the store's database, which grows by segments of 512 KiB.
pub const STORE_ROOM_MIN: u64 = 32 << 20;
/// Bytes of its disk below which the store takes no change at all: a write that fails in the middle costs more than a refusal.
pub const STORE_ROOM_LAST: u64 = 8 << 20;
/// Bytes of the disk that one byte of a commit may take until the database has made room again.
pub const STORE_ROOM_FACTOR: u64 = 8;
/// Changes kept for watchers; one that fell further behind reads everything again.
pub const CHANGE_LOG_MAX: usize = 16_384;
/// Bytes of the changes kept for watchers.
pub const CHANGE_LOG_BYTES_MAX: usize = 64 << 20;
/// Audit records of one file outside of the store; as many stay in it when older ones leave, so that the newest are at hand.
pub const AUDIT_SEGMENT_RECORDS_MAX: u64 = 10_000;
/// Bytes of one such file; it ends with the record before the one that would pass them.
pub const AUDIT_SEGMENT_BYTES_MAX: usize = 8 << 20;
/// Such files; beyond it the oldest goes, and a record says so. 10,000,000 records, 4 GB where they are as long as usual,
/// never more than 8 GB.
pub const AUDIT_SEGMENTS_MAX: usize = 1_000;
/// Audit records that wait in the store for a disk that takes such files, about 500 MB: beyond it no change makes a new
/// record. What takes access away may use an eighth more.
pub const AUDIT_IN_STORE_MAX: u64 = 1_000_000;
/// How often the head of the audit trail is signed and goes out to gateways, where it has moved: what is cut off within this
/// time is seen by no witness.
pub const AUDIT_HEAD_EVERY: Duration = Duration::from_secs(5);
/// Bytes of the signature of such a head: ECDSA P-256 in DER.
pub const AUDIT_SIGNATURE_MAX: usize = 72;
/// Bytes of the reason that an administrator gives for accepting a loss.
pub const REASON_MAX: usize = 512;
/// Bytes of one encoded text field of an audit record.
pub const AUDIT_FIELD_MAX: usize = 256;
/// Bytes of the encoded detail of an audit record. With the fields it stays below [`STORE_VALUE_MAX`].
pub const AUDIT_DETAIL_MAX: usize = 2_048;
/// Records in one answer of an audit query.
pub const AUDIT_LIST_MAX: usize = 10_000;
/// Denied requests that are told apart within [`DENY_WINDOW`]; others are only counted.
pub const DENY_KEYS_MAX: usize = 4_096;
/// Denied requests of one actor that are told apart within [`DENY_WINDOW`].
pub const DENY_KEYS_PER_ACTOR_MAX: usize = 32;
/// Equal denied requests within this time are one audit record with a count.
pub const DENY_WINDOW: Duration = Duration::from_secs(60);
/// Bytes of a gRPC message.
pub const RPC_MESSAGE_MAX: usize = 4 << 20;
/// Streams of one HTTP/2 connection.
pub const RPC_STREAMS_MAX: u32 = 64;
/// Connections of one node to the controller.
pub const RPC_CONNECTIONS_PER_NODE_MAX: usize = 4;
/// Connections to the administrators' local socket at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long one administrative call may take.
pub const ADMIN_CALL_MAX: Duration = Duration::from_secs(60);
/// How long a revoke waits for gateways to confirm before it answers with what is known.
pub const REVOKE_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a node that is revoked still hears the controller, which does nothing for it any more: time for the news to get there.
pub const LAST_WORDS: Duration = Duration::from_millis(500);
/// TLS handshakes of one overlay address that are under way; one more is refused, so that nobody takes the places of others.
pub const TLS_HANDSHAKES_PER_NODE_MAX: usize = 8;
/// How long a TLS handshake may take.
pub const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections to the enrolment port at once.
pub const ENROL_CONNECTIONS_MAX: usize = 256;
/// How many of them the machines of one join key may hold: 1/8, so that whoever holds one key takes nobody else's place.
pub const ENROL_CONNECTIONS_PER_KEY_MAX: usize = ENROL_CONNECTIONS_MAX / 8;
/// Bytes of one Enroll request.
pub const ENROL_BYTES_MAX: usize = 16 << 10;
/// How often those are told in the log together who were turned away more than once.
pub const REFUSED_LINES_EVERY: Duration = Duration::from_secs(1);
/// How many of them are told apart; all others share one line.
pub const REFUSED_TOLD_MAX: usize = 16;
/// Reviews of grants whose revocations are remembered, for those who wait for a change to be enforced.
pub const REVIEWS_MAX: usize = 1_024;
/// Messages that wait in one stream; a slower reader gets a fresh snapshot instead.
pub const STREAM_QUEUE_MAX: usize = 256;

// -- links -----------------------------------------------------------------------------------------------------------
/// How often a node probes the control link.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long silence may last before a new handshake is forced, and then the next endpoint is tried.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often a handshake is sent again.
pub const HANDSHAKE_RETRY: Duration = Duration::from_secs(1);
/// How soon the first is sent again, and one that was answered with a cookie: a lost datagram is not to be felt.
pub const HANDSHAKE_RETRY_EARLY: Duration = Duration::from_millis(250);

// -- names -----------------------------------------------------------------------------------------------------------
/// For how long others may remember an answer of ours, seconds: short, for an address goes when its grant goes.
pub const NAME_TTL_S: u32 = 10;
/// Bytes of a DNS answer over UDP: the least that fits the smallest IPv6 path (DNS Flag Day 2020).
pub const DNS_UDP_MAX: usize = 1_232;
/// Bytes of a DNS query over TCP; real ones have some hundred.
pub const DNS_QUERY_MAX: usize = 4_096;
/// Queries that wait for a server's answer or for an address.
pub const DNS_WAITING_MAX: usize = 256;
/// Queries with the same question that wait: ends the circle of a server that asks us again.
pub const DNS_SAME_MAX: usize = 16;
/// Questions to the controller at once for the address of a name below a suffix.
pub const DNS_ASSIGN_MAX: usize = 16;
/// How long the controller may take to give a name its address. A program's resolver asks again after 5 s.
pub const DNS_ASSIGN_WAIT: Duration = Duration::from_secs(4);
/// How long a name stays refused, before the controller is asked again.
pub const DNS_REFUSED_LIFE: Duration = Duration::from_secs(5);
/// Servers to which other people's names are forwarded; glibc itself uses three.
pub const DNS_SERVERS_MAX: usize = 4;
/// How long a server may take before the next is asked.
pub const DNS_SERVER_WAIT: Duration = Duration::from_secs(2);
/// Datagrams that are no answer to the query, before the server is given up (RFC 5452: somebody guesses).
pub const DNS_MISMATCH_MAX: usize = 16;
/// TCP connections to the resolver.
pub const DNS_TCP_MAX: usize = 16;
/// Queries of one TCP connection that wait for their answers.
pub const DNS_PIPELINE_MAX: usize = 8;
/// How long a TCP connection to the resolver may be silent (RFC 7766 section 6.2.3 asks for some seconds).
pub const DNS_TCP_IDLE: Duration = Duration::from_secs(10);
/// Packets that wait to enter or leave the resolver's stack.
pub const DNS_PACKETS_MAX: usize = 256;

// -- client ----------------------------------------------------------------------------------------------------------
/// Resources that one subject may see.
pub const CATALOGUE_MAX: usize = 4_096;
/// Bytes of a catalogue on the wire, so that it fits into one message of [`RPC_MESSAGE_MAX`] with what else that carries.
pub const CATALOGUE_BYTES_MAX: usize = 3 << 20;
/// Requests for access that one client has under way at once; the others wait their turn.
pub const CONNECTS_AT_ONCE_MAX: usize = 16;
/// Ended grants that a client remembers, so that a permit that was overtaken by its end opens nothing.
pub const ENDED_GRANTS_MAX: usize = 256;
/// Resources that left the catalogue and of which a client can still say why.
pub const DEPARTED_MAX: usize = 256;
/// Commands that wait at once for a client's daemon to reach something.
pub const LOCAL_WAITERS_MAX: usize = 256;
/// Names and prefixes, each, that a client keeps from leaving in the clear while it is dead: those of a whole catalogue, some
/// for each resource.
pub const HELD_MAX: usize = 32_768;
/// Largest file that remembers them, bytes: a name has 253 at most, and few have a tenth of that.
pub const HELD_BYTES_MAX: usize = 16 << 20;
/// Ports of the loopback that are tried until one is free in both families.
pub const LOOPBACK_PORTS_MAX: usize = 8;
/// Connections of browsers to one page of the loopback; one more waits. Browsers open some ahead of time.
pub const LOOPBACK_CONNECTIONS_MAX: usize = 16;
/// How long such a connection may take: it carries one request, from this very machine.
pub const LOOPBACK_CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// Bytes of a request's line and headers after which no more is read; the last read may bring as many again. Pages of one host share
/// their cookies, whatever the port.
pub const LOOPBACK_HEAD_MAX: usize = 16 << 10;
/// Bytes of a request's body.
pub const LOOPBACK_BODY_MAX: usize = PASSKEY_ANSWER_MAX;
/// Findings (refused prefixes, names, overlaps) that a client lists; a person reads a few of them.
pub const FINDINGS_MAX: usize = 64;

// -- nodes and the machines that they run on -------------------------------------------------------------------------
/// Bytes of the largest join file that is read: names, endpoints and prefixes of one organisation have a few thousand.
pub const JOIN_BYTES_MAX: usize = 64 << 10;
/// Attempts of one node to connect to the controller at once; that takes [`RPC_CONNECTIONS_PER_NODE_MAX`], and an old one may
/// not be over yet.
pub const LINK_ATTEMPTS_MAX: usize = 3;
/// How often the kernel's tables are asked for again when they changed while they were read.
pub const DUMP_TRIES_MAX: usize = 8;
/// Ports and ranges that stay open on one dark machine; each is a rule of its input chain.
pub const ALLOW_IN_MAX: usize = 64;
/// Addresses of one name that are used.
pub const TARGET_ADDRESSES_MAX: usize = 16;
/// DNS servers of the machine that a gateway asks for one name; glibc uses as many.
pub const DNS_SERVERS_ASKED_MAX: usize = 3;
/// Largest hosts file or resolv.conf that a gateway reads, bytes.
pub const HOSTS_FILE_MAX: u64 = 1 << 20;
/// Renewals whose moment of sending a gateway remembers.
pub const RENEWALS_REMEMBERED_MAX: usize = 64;
/// Names that a gateway resolves at once.
pub const RESOLVING_MAX: usize = 256;
/// Results of the client task's own calls that wait for it.
pub const AGENT_RESULTS_MAX: usize = 256;
/// Characters of a reason that are shown to a person.
pub const REASON_CHARS_MAX: usize = 512;
/// Events that wait for control code; beyond it they are counted and dropped, and whoever waits asks again.
pub const ENGINE_EVENTS_MAX: usize = STREAM_QUEUE_MAX * 16;
/// Largest file with a node's identity, bytes.
pub const IDENTITY_BYTES_MAX: usize = 256 << 10;
/// Largest resolv.conf that is read, bytes; glibc itself stops after three servers.
pub const RESOLV_CONF_BYTES_MAX: usize = 64 << 10;
/// Servers, search domains and options that are read, each; glibc uses three servers.
pub const RESOLV_CONF_ENTRIES_MAX: usize = 32;
/// Most groups of one account that are read; Linux itself allows 65,536, directories in practice some hundred.
pub const ACCOUNT_GROUPS_MAX: usize = 4_096;
/// Largest entry of the machine's account database, bytes: a group lists its members.
pub const ACCOUNT_ENTRY_BYTES_MAX: usize = 1 << 20;
/// SSH sessions of administrators that a machine leaves open when it turns dark.
pub const SSH_SESSIONS_MAX: usize = 64;
/// Processes that are looked at for them: Linux counts them up to 4,194,304, and one in use has some thousand.
pub const PROCESSES_LOOKED_AT_MAX: usize = 65_536;
/// How long a machine is dark that would shut out SSH while somebody uses it.
pub const DARK_TRIAL: Duration = Duration::from_secs(60);
/// Chains of other firewalls that a gateway names; a person looks at a few of them.
pub const FOREIGN_CHAINS_MAX: usize = 8;
/// Prefixes that one firewall table guards; an organisation has two, and two pools.
pub const GUARDED_PREFIXES_MAX: usize = 64;
/// Peers that are ticked under one lock of the state.
pub const PEER_SWEEP_MAX: usize = 1_024;
/// Sessions of one tunnel answered and not confirmed; boringtun keeps eight sessions in all.
pub const UNCONFIRMED_SESSIONS_MAX: usize = 4;
/// How long the kernel may take to answer about connection tracking entries.
pub const CONNTRACK_ANSWER_MAX: Duration = Duration::from_millis(500);

/// Recipients of one backup.
pub const BACKUP_RECIPIENTS_MAX: usize = 16;
/// Bytes of each of the two lines in front of a backup's body.
pub const BACKUP_HEADER_MAX: usize = 64 << 10;
/// Bytes of one line within a backup: a revision of the policy with its files, as JSON within JSON.
pub const BACKUP_LINE_MAX: usize = 64 << 20;
/// Records of the audit trail in a backup, the newest.
pub const BACKUP_AUDIT_MAX: u64 = 100_000;
/// Messages of a backup that wait for whoever asked for it.
pub const BACKUP_CHUNKS_WAITING_MAX: usize = 16;
/// Shortest passphrase of a backup, bytes: it can be tried without end.
pub const PASSPHRASE_MIN: usize = 12;
/// How long a thread may be at one packet, or a task at one event, before the program is not told to be alive any more.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Bytes of a file of settings: some twenty variables.
pub const SETTINGS_BYTES_MAX: usize = 64 << 10;
/// Zones of one link that systemd-resolved is told: versions before 256 refuse a longer list as a whole.
pub const RESOLVED_DOMAINS_MAX: usize = 256;

// -- identity providers and other web servers that an administrator named --------------------------------------------
/// How long a web server may take from the resolution of its name to the last byte; a person waits for it.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer's body; keys and metadata of real providers have some ten thousand.
pub const FETCH_BODY_MAX: usize = 1 << 20;
/// Bytes of an answer's status line and headers.
pub const FETCH_HEADERS_MAX: usize = 64 << 10;
/// Bytes of a URL that is asked; what browsers and servers agree on.
pub const FETCH_URL_MAX: usize = 2_048;
/// Bytes of the PEM certificates that an administrator gives for one server.
pub const FETCH_CA_PEM_MAX: usize = 256 << 10;
/// Prefixes that an administrator opens for one server.
pub const FETCH_ALLOW_MAX: usize = 16;
/// Texts that are read from one claim, such as the groups of a person.
pub const CLAIM_LIST_MAX: usize = 1_024;
/// How long a provider's metadata and keys are believed before they are asked for again.
pub const PROVIDER_CACHE_LIFE: Duration = Duration::from_secs(3_600);
/// How often at most an unknown key has a provider's keys asked for again.
pub const PROVIDER_KEYS_EVERY: Duration = Duration::from_secs(60);
/// How long a provider that failed is not asked for its metadata again, so that nobody queues for it.
pub const PROVIDER_FAILED_LIFE: Duration = Duration::from_secs(5);
/// Characters of a provider's text that are shown.
pub const PROVIDER_TEXT_CHARS_MAX: usize = 256;
/// Scopes that are asked of a provider.
pub const PROVIDER_SCOPES_MAX: usize = 32;
/// Identity providers of one organisation.
pub const IDPS_MAX: usize = 16;
/// Groups there that are named for one identity provider: who may sign in, and which group here they are.
pub const IDP_GROUPS_MAX: usize = 256;
/// Sign-ins that wait for their people at one time: a device has one, and the oldest make room.
pub const SIGN_INS_MAX: usize = 1_024;
/// How long a sign-in waits for its person.
pub const SIGN_IN_LIFE: Duration = Duration::from_secs(600);
/// How long before the end of a log-in people are told of it.
pub const LOGIN_NOTICE: Duration = Duration::from_secs(15 * 60);
/// How long a person has to type in the code of a sign-in without a browser: who is made to type in somebody else's has less time.
pub const SIGN_IN_CODE_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a code or state that a browser brings.
pub const SIGN_IN_TEXT_MAX: usize = 4_096;
/// Characters of a provider's refusal that a person is shown.
pub const SIGN_IN_ERROR_CHARS_MAX: usize = 200;
/// How often one device may begin or end a sign-in within a minute.
pub const SIGN_INS_PER_MINUTE: u32 = 60;
/// How often a provider is asked by default whether it still stands by somebody.
pub const IDP_CHECK_EVERY: Duration = Duration::from_secs(300);
/// And how often at most.
pub const IDP_CHECK_EVERY_MIN: Duration = Duration::from_secs(5);
/// How long a sign-in outlives a provider that cannot be asked, by default.
pub const IDP_GRACE: Duration = Duration::from_secs(8 * 3_600);
/// And at most.
pub const IDP_GRACE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// People about whom providers are asked at one time.
pub const IDP_CHECKS_AT_ONCE: usize = 8;
/// Bytes of a refresh token.
pub const REFRESH_TOKEN_MAX: usize = 8_192;
/// Longest time for which a device code is polled (RFC 8628); providers give five to thirty minutes.
pub const DEVICE_CODE_LIFE_MAX: Duration = Duration::from_secs(1_800);
/// Longest pause between two polls that a provider may ask for.
pub const DEVICE_POLL_MAX: Duration = Duration::from_secs(60);

// ---- identities of programs (SPIFFE) -----------------------------------------------------------------------------
/// Bytes of a SPIFFE id (SPIFFE-ID, section 2.3: all programs take so many).
pub const SPIFFE_ID_MAX: usize = 2_048;
/// Bytes of the part of it that an administrator chooses: with trust domain and account it is far below the whole.
pub const SPIFFE_PATH_MAX: usize = 1_024;
/// Registrations of one service account: each of its machines keeps a certificate for each.
pub const REGISTRATIONS_PER_ACCOUNT_MAX: usize = 32;
/// Registrations of all accounts.
pub const REGISTRATIONS_MAX: usize = 4_096;
/// Longest life of a program's certificate.
pub const WORKLOAD_SVID_LIFE: Duration = Duration::from_secs(3_600);
/// Life of a program's token.
pub const WORKLOAD_TOKEN_LIFE: Duration = Duration::from_secs(300);
/// Audiences of one token.
pub const WORKLOAD_AUDIENCES_MAX: usize = 8;
/// Bytes of one audience.
pub const WORKLOAD_AUDIENCE_MAX: usize = 255;
/// Certificates and tokens of programs that one device may have signed within a minute: a start with every registration, and tokens.
pub const WORKLOAD_SIGNINGS_PER_MINUTE: u32 = 120;
/// How often a workload asks for registrations.
pub const WORKLOAD_ASK_EVERY: Duration = Duration::from_secs(30);
/// Bytes of one token that is shown for validation.
pub const WORKLOAD_TOKEN_MAX: usize = 16 << 10;
/// Connections of one user of the machine to the Workload API.
pub const WORKLOAD_CONNECTIONS_PER_UID_MAX: usize = 32;
/// And of all users.
pub const WORKLOAD_CONNECTIONS_MAX: usize = 256;
/// Certificates of a bundle, or of a chain.
pub const WORKLOAD_BUNDLE_MAX: usize = 4;
/// Bytes of the keys of programs' tokens.
pub const WORKLOAD_TOKEN_BUNDLE_MAX: usize = 8 << 10;
/// Tokens that the programs of one user of a machine may have signed within a minute: no user takes the turns of another.
pub const WORKLOAD_TOKENS_PER_UID_PER_MINUTE: u32 = 40;
/// And those of all users: what is left of [`WORKLOAD_SIGNINGS_PER_MINUTE`] is enough for a certificate of each registration.
pub const WORKLOAD_TOKENS_PER_MINUTE: u32 = 80;
/// How often the audit trail says that a machine gets certificates, or tokens, of a registration.
pub const WORKLOAD_TOLD_EVERY: Duration = Duration::from_secs(86_400);
/// Of so many it is remembered that the trail says so already; beyond it the oldest is forgotten, and said again. 60 bytes each.
pub const WORKLOAD_TOLD_MAX: usize = 65_536;
/// How often it is looked whether a program still works for whoever watches its health.
pub const HEALTH_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Devices that one person may log in on, if nothing else is said: a stolen password enrols no fleet.
pub const DEVICES_PER_USER: u32 = 10;
