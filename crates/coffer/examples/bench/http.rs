//! A client of HTTP/1.1 in as few lines as it takes: blocking, over one connection that is kept. It costs little, so
//! that on a small machine the figures are the server's.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take to answer before the benchmark is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the server, and its last answer.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
    head: String,
    body: Vec<u8>,
}

impl Http {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), head: String::new(), body: Vec::new() })
    }

    /// Sends a request and reads the answer; gives its status.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.get_mut().write_all(request)?;
        self.head.clear();
        let mut length = 0;
        loop {
            let from = self.head.len();
            if self.stream.read_line(&mut self.head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = self.head[from..].trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = header_value(line, "content-length") {
                length = value.parse().map_err(io::Error::other)?;
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        let status = self.head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::other(format!("no status in {:?}", self.head)))
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// A header of the last answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| header_value(line, name))
    }
}

fn header_value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    found.eq_ignore_ascii_case(name).then(|| value.trim())
}

/// A request as it goes over the wire.
pub(crate) fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> Vec<u8> {
    let token = token.map(|token| format!("x-auth-token: {token}\r\n")).unwrap_or_default();
    let about = match body {
        "" => String::new(),
        body => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}{about}\r\n{body}").into_bytes()
}
