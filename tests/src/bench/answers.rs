//! What did iperf3, ping and the kernel say?

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A run of iperf3 over TCP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tcp {
    /// Bytes that arrived.
    pub bytes: f64,
    /// Bits a second that arrived.
    pub bits_per_second: f64,
    /// Segments that the sender sent again.
    pub retransmits: f64,
}

/// A run of iperf3 over UDP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Udp {
    /// Datagrams that arrived, a second.
    pub received: f64,
    /// Datagrams sent, a second.
    pub sent: f64,
}

/// The output of `iperf3 -J`, or what it said went wrong.
fn json(output: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(output).context("iperf3 did not answer in JSON")?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    Ok(value)
}

fn number(value: &Value, path: &str) -> anyhow::Result<f64> {
    value.pointer(path).and_then(Value::as_f64).with_context(|| format!("iperf3 said nothing of {path}"))
}

/// Reads `iperf3 -J` of TCP.
pub fn read_tcp(output: &str) -> anyhow::Result<Tcp> {
    let value = json(output)?;
    let run = Tcp {
        bytes: number(&value, "/end/sum_received/bytes")?,
        bits_per_second: number(&value, "/end/sum_received/bits_per_second")?,
        retransmits: number(&value, "/end/sum_sent/retransmits")?,
    };
    anyhow::ensure!(run.bytes > 0.0, "iperf3: nothing arrived");
    Ok(run)
}

/// Reads `iperf3 -u -J`. Up to 3.9 there is only one sum, of the receiver.
pub fn read_udp(output: &str) -> anyhow::Result<Udp> {
    let value = json(output)?;
    let of = if value.pointer("/end/sum_received/packets").is_some() { "/end/sum_received" } else { "/end/sum" };
    let sent = if value.pointer("/end/sum_sent/packets").is_some() { "/end/sum_sent" } else { "/end/sum" };
    let arrived = number(&value, &format!("{of}/packets"))? - number(&value, &format!("{of}/lost_packets"))?;
    let (seconds, sending) = (number(&value, &format!("{of}/seconds"))?, number(&value, &format!("{sent}/seconds"))?);
    anyhow::ensure!(seconds > 0.0 && sending > 0.0, "iperf3: it took no time");
    Ok(Udp { received: arrived.max(0.0) / seconds, sent: number(&value, &format!("{sent}/packets"))? / sending })
}

/// The times in milliseconds of all answers that `ping` shows.
pub fn read_ping(output: &str) -> Vec<f64> {
    let time = |line: &str| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok();
    output.lines().filter_map(time).collect()
}

/// utime and stime of a process, all its threads (living and ended) together, in ticks, out of `/proc/PID/stat` (proc_pid_stat(5)).
pub fn read_ticks(stat: &str) -> Option<u64> {
    // The name stands in parentheses, and may hold both parentheses and spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

/// Resident memory in KiB out of `/proc/PID/status`.
pub fn read_rss(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_counts_what_arrived_and_what_the_sender_repeated() {
        let output = r#"{"end":{"sum_sent":{"bytes":580648960,"bits_per_second":4620030991.2,"retransmits":65},
            "sum_received":{"bytes":575668224,"bits_per_second":4604917534.6}}}"#;
        let run = read_tcp(output).unwrap();
        assert_eq!(run, Tcp { bytes: 575_668_224.0, bits_per_second: 4_604_917_534.6, retransmits: 65.0 });
    }

    #[test]
    fn udp_counts_what_arrived_by_the_receiver_s_clock() {
        let newer = r#"{"end":{"sum":{"seconds":2,"packets":1000,"lost_packets":600},
            "sum_sent":{"seconds":1,"packets":1000,"lost_packets":0},
            "sum_received":{"seconds":2,"packets":900,"lost_packets":600}}}"#;
        assert_eq!(read_udp(newer).unwrap(), Udp { received: 150.0, sent: 1000.0 });
        let older = r#"{"end":{"sum":{"seconds":2,"packets":1000,"lost_packets":600}}}"#;
        assert_eq!(read_udp(older).unwrap(), Udp { received: 200.0, sent: 500.0 });
    }

    #[test]
    fn what_went_wrong_is_no_figure() {
        let refused = r#"{"start":{},"end":{},"error":"unable to connect to server: Connection refused"}"#;
        assert!(read_tcp(refused).unwrap_err().to_string().contains("Connection refused"));
        assert!(read_udp(refused).unwrap_err().to_string().contains("Connection refused"));
        assert!(read_tcp("").is_err() && read_tcp("{}").is_err() && read_udp("{\"end\":{}}").is_err());
        let nothing = r#"{"end":{"sum_sent":{"retransmits":9},"sum_received":{"bytes":0,"bits_per_second":0}}}"#;
        assert!(read_tcp(nothing).unwrap_err().to_string().contains("nothing arrived"));
    }

    #[test]
    fn each_answer_to_ping_is_heard() {
        let output = "PING 10.20.0.10 (10.20.0.10) 56(84) bytes of data.\n\
                      64 bytes from 10.20.0.10: icmp_seq=1 ttl=63 time=0.123 ms\n\
                      64 bytes from 10.20.0.10: icmp_seq=2 ttl=63 time=4 ms\n\
                      no answer yet for icmp_seq=3\n\n--- 10.20.0.10 ping statistics ---\n\
                      3 packets transmitted, 2 received, 33% packet loss, time 2003ms\n";
        assert_eq!(read_ping(output), [0.123, 4.0]);
    }

    #[test]
    fn the_kernel_s_counts_are_read_past_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 1 1 20 0 5 0 1000 1 1";
        assert_eq!(read_ticks(stat), Some(300));
        assert_eq!(read_ticks("7 (a) S 1"), None);
        assert_eq!(read_rss("Name:\ta\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\n"), Some(512));
        assert_eq!(read_rss("Name:\ta\n"), None);
    }
}
