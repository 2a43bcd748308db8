//! Dates as Trove writes them: UTC without a zone and without a fraction, such as `2026-11-22T10:39:36`. Gophercloud
//! parses exactly this and nothing else.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{PartialSchema, ToSchema};

/// A moment, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub Timestamp);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Timestamp::from_second(self.0.as_second()).unwrap_or(self.0);
        TimeZone::UTC.to_datetime(whole).fmt(f)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let civil: DateTime = text.parse().map_err(D::Error::custom)?;
        TimeZone::UTC.to_timestamp(civil).map(Self).map_err(D::Error::custom)
    }
}

impl From<Timestamp> for Date {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl PartialSchema for Date {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("UTC without zone and fraction, such as 2026-11-22T10:39:36"))
            .pattern(Some(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$"))
            .into()
    }
}

impl ToSchema for Date {}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn a_date_has_neither_zone_nor_fraction_and_reads_back() {
        let at: jiff::Timestamp = "2026-11-22T10:39:36.987654Z".parse().expect("a timestamp");
        let json = serde_json::to_string(&Date(at)).expect("a date");
        assert_eq!(json, "\"2026-11-22T10:39:36\"");
        let back: Date = serde_json::from_str(&json).expect("the same date");
        assert_eq!(back.to_string(), "2026-11-22T10:39:36");
    }
}
