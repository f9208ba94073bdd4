//! Real etcd servers on loopback ports, and what a client asks of them: by their JSON gateway.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::relay::Relay;

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether these tests can run here; says why if not.
pub(crate) fn can_run() -> bool {
    match Command::new("etcd").arg("--version").output() {
        Ok(output) if output.status.success() => true,
        _ => {
            eprintln!("skipped: there is no etcd here (apt-get install etcd-server)");
            false
        }
    }
}

/// Asks over and over until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One server. It is killed when this is dropped.
pub(crate) struct Etcd {
    pub(crate) name: String,
    client: SocketAddr,
    peer: SocketAddr,
    /// What others reach its peer listener by.
    pub(crate) relay: Relay,
    dir: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// A server that is not started yet, with its data below `dir`.
    pub(crate) fn new(name: &str, dir: &Path, flags: &[&str]) -> Etcd {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let peer = at(free_port());
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let relay = Relay::to(peer.port());
        Etcd { name: name.to_owned(), client: at(free_port()), peer, relay, dir: dir.join(name), flags, child: None }
    }

    /// Starts it in a cluster of `members` (`name=url`), a new one or one that is there.
    pub(crate) fn start(&mut self, members: &[String], state: &str) {
        self.flags
            .extend([format!("--initial-cluster={}", members.join(",")), format!("--initial-cluster-state={state}")]);
        self.run();
    }

    /// Starts it, again.
    pub(crate) fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg(format!("--name={}", self.name)).arg(format!("--data-dir={}", self.dir.display()));
        command.arg(format!("--listen-client-urls=http://{0}", self.client));
        command.arg(format!("--advertise-client-urls=http://{0}", self.client));
        command.arg(format!("--listen-peer-urls=http://{0}", self.peer));
        command.arg(format!("--initial-advertise-peer-urls={}", self.relay.url()));
        command.args(["--log-level=warn", "--logger=zap"]).args(&self.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().expect("etcd starts"));
    }

    /// `name=url`
    pub(crate) fn entry(&self) -> String {
        format!("{}={}", self.name, self.relay.url())
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// It has not ended by itself.
    #[track_caller]
    pub(crate) fn assert_runs(&mut self) {
        let ended = self.child.as_mut().expect("it was started").try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended: {ended:?}\n{}", self.name, self.log());
    }

    /// What it has written for people.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// Asks its gateway; nothing if it does not answer, or with an error.
    pub(crate) fn ask(&self, path: &str, body: &Json, wait: Duration) -> Result<Json, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.client, wait)?;
            stream.set_read_timeout(Some(wait))?;
            let body = body.to_string();
            // HTTP/1.0: the answer is not in chunks, and ends with the connection.
            write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        let json: Json = serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))?;
        if head.split(' ').nth(1) == Some("200") { Ok(json) } else { Err(json.to_string()) }
    }

    /// Stores a value, once it can.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, value: &str) {
        let body = json!({"key": base64(key), "value": base64(value)});
        until(&format!("{} takes {key}", self.name), || self.ask("/v3/kv/put", &body, Duration::from_secs(5)).ok());
    }

    /// Stores so many values, many at a time.
    pub(crate) fn put_many(&self, count: usize) {
        std::thread::scope(|scope| {
            for worker in 0..16 {
                scope.spawn(move || {
                    (worker..count).step_by(16).for_each(|number| self.put(&format!("many{number}"), "value"));
                });
            }
        });
    }

    /// Removes a member, once that is allowed.
    #[track_caller]
    pub(crate) fn remove(&self, id: u64) {
        let body = json!({"ID": id.to_string()});
        until("it is removed", || self.ask("/v3/cluster/member/remove", &body, Duration::from_secs(10)).ok());
    }

    /// The value of a key as this server has it, whether it can reach others or not.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let body = json!({"key": base64(key), "serializable": true});
        let answer = self.ask("/v3/kv/range", &body, Duration::from_secs(5)).ok()?;
        Some(unbase64(answer["kvs"][0]["value"].as_str()?))
    }

    /// The members, as this server has them.
    pub(crate) fn members(&self) -> Option<Vec<Json>> {
        let answer = self.ask("/v3/cluster/member/list", &json!({}), Duration::from_secs(5)).ok()?;
        answer["members"].as_array().cloned()
    }

    /// Adds a member, once that is allowed; gives its id.
    #[track_caller]
    pub(crate) fn add(&self, url: &str, learner: bool) -> u64 {
        let body = json!({"peerURLs": [url], "isLearner": learner});
        let answer = until(&format!("{url} is added"), || {
            self.ask("/v3/cluster/member/add", &body, Duration::from_secs(10)).ok()
        });
        id(&answer["member"]["ID"])
    }

    /// Gives a learner its vote, once that is allowed.
    #[track_caller]
    pub(crate) fn promote(&self, id: u64) {
        let body = json!({"ID": id.to_string()});
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask("/v3/cluster/member/promote", &body, Duration::from_secs(10)) {
                Ok(_) => return,
                Err(why) => last.clone_from(&why),
            }
            assert!(Instant::now() < deadline, "not promoted: {last}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks it to hand leadership to this member.
    pub(crate) fn transfer_leader(&self, id: u64) -> Result<(), String> {
        let body = json!({"targetID": id.to_string()});
        self.ask("/v3/maintenance/transfer-leadership", &body, Duration::from_secs(10)).map(drop)
    }

    /// Whom it believes to lead.
    pub(crate) fn leader(&self) -> Option<u64> {
        let status = self.ask("/v3/maintenance/status", &json!({}), Duration::from_secs(5)).ok()?;
        Some(id(&status["leader"])).filter(|id| *id != 0)
    }

    /// The last entry that it knows to be committed.
    pub(crate) fn commit(&self) -> Option<u64> {
        let status = self.ask("/v3/maintenance/status", &json!({}), Duration::from_secs(5)).ok()?;
        Some(id(&status["raftIndex"]))
    }

    /// Who it is.
    pub(crate) fn id(&self) -> Option<u64> {
        let status = self.ask("/v3/maintenance/status", &json!({}), Duration::from_secs(5)).ok()?;
        Some(id(&status["header"]["member_id"]))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = (child.kill(), child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{} said last:\n{}", self.name, lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// The gateway writes 64-bit numbers as strings.
fn id(json: &Json) -> u64 {
    json.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64(text: &str) -> String {
    let mut out = String::new();
    for bytes in text.as_bytes().chunks(3) {
        let word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) as usize & 63;
            out.push(if digit <= bytes.len() { DIGITS[value] as char } else { '=' });
        }
    }
    out
}

fn unbase64(text: &str) -> String {
    let mut bytes = Vec::new();
    let values: Vec<u32> = text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte))
        .map(|value| u32::try_from(value).unwrap())
        .collect();
    for digits in values.chunks(4) {
        let word = digits.iter().fold(0, |word, value| word << 6 | value) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..digits.len()]);
    }
    String::from_utf8(bytes).unwrap()
}
