//! A blocking HTTP/1.1 client for JSON on one kept connection.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// Longest time an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// One connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// Whether the server said that it closes the connection.
    pub(crate) closes: bool,
}

impl Answer {
    /// The body of a 200.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }
}

impl Connection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        let body = body.to_string();
        self.send(format!("{}{body}", post_head(path, body.len(), "")).as_bytes())?;
        self.answer()
    }

    /// Posts with an API key.
    pub(crate) fn post_as(&mut self, key: &str, path: &str, body: &Value) -> io::Result<Answer> {
        self.post_with(&format!("x-api-key: {key}\r\n"), path, body)
    }

    /// Posts with further header lines.
    pub(crate) fn post_with(&mut self, headers: &str, path: &str, body: &Value) -> io::Result<Answer> {
        let body = body.to_string();
        self.send(format!("{}{body}", post_head(path, body.len(), headers)).as_bytes())?;
        self.answer()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends the head of a request and waits until its handler asks for the body: from then on it has started.
    pub(crate) fn start_post(&mut self, path: &str, body_bytes: usize) -> io::Result<()> {
        self.send(post_head(path, body_bytes, "expect: 100-continue\r\n").as_bytes())?;
        let (status, _) = self.head()?;
        if status == 100 { Ok(()) } else { Err(broken(&format!("expected 100, got {status}"))) }
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let (status, headers) = self.head()?;
        let header = |name: &str| headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str());
        let length: usize = header("content-length").and_then(|v| v.parse().ok()).ok_or_else(|| broken("no length"))?;
        let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body =
            serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into()));
        Ok(Answer { status, body, closes })
    }

    fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 || !line.ends_with("\r\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }
}

fn post_head(path: &str, body_bytes: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {body_bytes}\r\n\
         {more}\r\n"
    )
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
