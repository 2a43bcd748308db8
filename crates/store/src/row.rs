//! What is read from the store and is no type of the core, and how columns become values.

use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use coffer_core::id::{Epoch, OperationId, ProjectId, VersionId};
use coffer_core::instance::{Instance, Kind, Observed, Operation};
use coffer_core::operation::Phase;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::{Any, AnyRow};

use crate::Error;
use crate::gathered::Gathered;

/// An operation that is open, as far as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    pub id: OperationId,
    pub kind: Kind,
    pub target: Option<VersionId>,
    pub phase: Phase,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An instance with what its agent last saw and its open operation.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRow {
    pub instance: Instance,
    pub observed: Option<Observed>,
    pub open: Option<OpenOperation>,
}

/// Something that happened to an instance by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Timestamp,
    /// A stable name for machines, such as `engine.died`.
    pub id: String,
    pub message: String,
}

/// Reads the columns of a row from left to right, the first of which is its id.
pub(crate) struct Columns<'r> {
    row: &'r AnyRow,
    table: &'static str,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(crate) fn of(row: &'r AnyRow, table: &'static str) -> Self {
        Self { row, table, next: 0 }
    }

    /// Whether the next column is null; does not go on to the one after it.
    pub(crate) fn is_null(&self) -> Result<bool, Error> {
        Ok(self.row.try_get::<Option<&str>, _>(self.next)?.is_none())
    }

    /// Goes on without reading so many columns.
    pub(crate) fn skip(&mut self, columns: usize) {
        self.next += columns;
    }

    pub(crate) fn get<T>(&mut self) -> Result<T, Error>
    where
        T: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
    {
        let value = self.row.try_get(self.next)?;
        self.next += 1;
        Ok(value)
    }

    /// A truth that was cast to a number: columns of SQLite that say they are one cannot be read otherwise.
    pub(crate) fn truth(&mut self) -> Result<bool, Error> {
        Ok(self.get::<i64>()? != 0)
    }

    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, Error> {
        let text: &str = self.get()?;
        text.parse().map_err(|e| self.unreadable(e))
    }

    pub(crate) fn parse_optional<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.get()?;
        text.map(str::parse).transpose().map_err(|e| self.unreadable(e))
    }

    pub(crate) fn json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let text: &str = self.get()?;
        serde_json::from_str(text).map_err(|e| self.unreadable(e))
    }

    pub(crate) fn json_optional<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.get()?;
        text.map(serde_json::from_str).transpose().map_err(|e| self.unreadable(e))
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Error> {
        let micros: i64 = self.get()?;
        Timestamp::from_microsecond(micros).map_err(|e| self.unreadable(e))
    }

    pub(crate) fn number<T: TryFrom<i64, Error: std::fmt::Display>>(&mut self) -> Result<T, Error> {
        let number: i64 = self.get()?;
        T::try_from(number).map_err(|e| self.unreadable(e))
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> Error {
        let id = self.row.try_get::<String, _>(0).unwrap_or_default();
        Error::Unreadable { table: self.table, id, why: why.to_string() }
    }

    /// What `instance_json` gathers.
    pub(crate) fn instance(&mut self) -> Result<Instance, Error> {
        self.json::<Gathered>().map(Instance::from)
    }

    /// What `operation_columns` gives.
    pub(crate) fn operation(&mut self) -> Result<Operation, Error> {
        Ok(Operation {
            id: self.parse()?,
            instance: self.parse()?,
            project: ProjectId(self.get()?),
            kind: self.kind()?,
            target: self.parse_optional()?,
            group: self.parse_optional()?,
            plan: self.json()?,
            phase: self.json()?,
            epoch: Epoch(self.get()?),
            steps: self.json()?,
            findings: self.json()?,
            gap_us: self.get::<Option<i64>>()?.and_then(|us| u64::try_from(us).ok()),
            clients: self.json_optional()?,
            created_at: self.time()?,
            updated_at: self.time()?,
        })
    }

    pub(crate) fn kind(&mut self) -> Result<Kind, Error> {
        let name: &str = self.get()?;
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| self.unreadable(format_args!("'{name}' is no kind of operation")))
    }
}

/// A value as JSON for a column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Database(sqlx::Error::Encode(Box::new(e))))
}

/// An address for two columns: the network, which is empty for IPv4, and the last 32 bits as a number. SQL counts on and
/// compares only the number, because all of IPv6 fits into no number of a database.
pub(crate) fn split_address(address: IpAddr) -> (String, u32) {
    match address {
        IpAddr::V4(address) => (String::new(), address.to_bits()),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            let network = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u32::MAX));
            (network.to_string(), u32::from_be_bytes([a, b, c, d]))
        }
    }
}

/// The address of which [`split_address`] made this.
pub(crate) fn join_address(network: &str, number: u32) -> Result<IpAddr, AddrParseError> {
    if network.is_empty() {
        return Ok(Ipv4Addr::from_bits(number).into());
    }
    let network: Ipv6Addr = network.parse()?;
    Ok(Ipv6Addr::from_bits(network.to_bits() | u128::from(number)).into())
}

/// A time for a column.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}
