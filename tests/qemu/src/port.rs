//! The host's end of a guest's virtio-serial port: events come, commands go, one line each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What a guest tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It booted. `mode` is elemental's: live, active, recovery.
    Up { mode: String, seconds: f64 },
    /// A command ended.
    Done { id: u64, code: i32, output: String },
}

impl Event {
    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("an event: {line:?}"))?;
        match value["event"].as_str() {
            Some("up") => Ok(Self::Up {
                mode: value["mode"].as_str().context("up without a mode")?.to_owned(),
                seconds: value["seconds"].as_f64().context("up without seconds")?,
            }),
            Some("done") => Ok(Self::Done {
                id: value["id"].as_u64().context("done without an id")?,
                code: i32::try_from(value["code"].as_i64().context("done without a code")?)?,
                output: String::from_utf8_lossy(
                    &STANDARD.decode(value["output"].as_str().context("done without output")?)?,
                )
                .into_owned(),
            }),
            _ => bail!("no event that is known: {line:?}"),
        }
    }
}

/// One guest's port, from when its machine is switched on to when it is off.
pub struct Port {
    stream: UnixStream,
    events: Receiver<Event>,
    next: u64,
}

impl Port {
    /// Connects to the socket of a machine that was just started.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        let reader = BufReader::new(stream.try_clone().context("a port")?);
        let (send, events) = mpsc::channel();
        std::thread::spawn(move || {
            // A power cut may end a line anywhere.
            for line in reader.lines().map_while(Result::ok) {
                if let Ok(event) = Event::parse(&line)
                    && send.send(event).is_err()
                {
                    break;
                }
            }
        });
        Ok(Self { stream, events, next: 0 })
    }

    /// Waits until the guest is up; gives its mode, and how many seconds its own clock says that took.
    pub fn up(&self, patience: Duration) -> Result<(String, f64)> {
        let end = Instant::now() + patience;
        loop {
            if let Event::Up { mode, seconds } = self.event(end)? {
                return Ok((mode, seconds));
            }
        }
    }

    /// Whether the guest said by now that it is up.
    pub fn is_up(&self) -> bool {
        self.events.try_iter().any(|event| matches!(event, Event::Up { .. }))
    }

    /// Runs a command in the guest; gives its exit code and what it printed.
    pub fn exec(&mut self, command: &str, patience: Duration) -> Result<(i32, String)> {
        ensure!(!command.contains('\n'), "a command is one line");
        self.next += 1;
        writeln!(self.stream, "{} {command}", self.next).context("the port")?;
        let end = Instant::now() + patience;
        loop {
            match self.event(end).with_context(|| format!("waiting for: {command}"))? {
                Event::Done { id, code, output } if id == self.next => return Ok((code, output)),
                Event::Done { .. } | Event::Up { .. } => {}
            }
        }
    }

    fn event(&self, end: Instant) -> Result<Event> {
        match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Timeout) => bail!("the guest says nothing"),
            Err(RecvTimeoutError::Disconnected) => bail!("the guest is off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_guest_writes_them() {
        let up = Event::parse(r#"{"event":"up","mode":"live","seconds":12.5}"#).unwrap();
        assert_eq!(up, Event::Up { mode: "live".to_owned(), seconds: 12.5 });
        let done = Event::parse(r#"{"event":"done","id":3,"code":1,"output":"bm8="}"#).unwrap();
        assert_eq!(done, Event::Done { id: 3, code: 1, output: "no".to_owned() });
        assert!(Event::parse(r#"{"event":"do"#).is_err());
        assert!(Event::parse(r#"{"event":"else"}"#).is_err());
    }
}
