//! A client of Redis and Valkey in as few lines as it takes: blocking, over one connection, RESP 2.
//!
//! Tests use it rather than the agent's client, so that a mistake in that one cannot hide itself.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an engine may take to answer before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an engine answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Also `+OK` and the like.
    Text(Vec<u8>),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
    Error(String),
}

impl Reply {
    /// The text of it, if it is one.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of it; none if it is no list.
    pub(crate) fn items(self) -> Vec<Reply> {
        match self {
            Self::List(items) => items,
            _ => Vec::new(),
        }
    }
}

/// A connection to an engine.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    writer: BufWriter<TcpStream>,
}

impl Connection {
    /// Connects, and authenticates as the default user where there is a password.
    pub(crate) fn open(address: SocketAddr, password: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { reader: BufReader::new(stream.try_clone()?), writer: BufWriter::new(stream) };
        if let Some(password) = password {
            connection.ask(&["AUTH", password])?;
        }
        Ok(connection)
    }

    /// One command, one answer. An error of the engine's is an error.
    pub(crate) fn ask(&mut self, command: &[&str]) -> io::Result<Reply> {
        let mut replies = self.pipeline(std::iter::once(command))?;
        match replies.pop() {
            Some(Reply::Error(error)) => Err(io::Error::other(error)),
            Some(reply) => Ok(reply),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Many commands at once, and their answers in order; errors of the engine's are among the answers.
    pub(crate) fn pipeline<C, A>(&mut self, commands: impl IntoIterator<Item = C>) -> io::Result<Vec<Reply>>
    where
        C: AsRef<[A]>,
        A: AsRef<[u8]>,
    {
        let mut count = 0;
        for command in commands {
            let command = command.as_ref();
            write!(self.writer, "*{}\r\n", command.len())?;
            for argument in command {
                let argument = argument.as_ref();
                write!(self.writer, "${}\r\n", argument.len())?;
                self.writer.write_all(argument)?;
                self.writer.write_all(b"\r\n")?;
            }
            count += 1;
        }
        self.writer.flush()?;
        (0..count).map(|_| self.read()).collect()
    }

    fn read(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Reply::Text(rest.as_bytes().to_vec()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Reply::Nothing,
                Ok(length) => {
                    let mut text = vec![0; length + 2];
                    self.reader.read_exact(&mut text)?;
                    text.truncate(length);
                    Reply::Text(text)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Reply::Nothing,
                Ok(length) => Reply::List((0..length).map(|_| self.read()).collect::<io::Result<_>>()?),
            },
            other => return Err(io::Error::other(format!("{other:?} is no RESP 2"))),
        })
    }
}
