//! Which fault an error of the application is. One place for all of them, so that a new one has to choose.

use coffer_core::finding::Severity;
use coffer_core::plan::Refusal;
use coffer_wire::trove::{Fault, Kind};

use super::answer::Refused;
use crate::app::{Error, Thing};

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { what, id } => not_found(what, &id).into(),
            Error::Invalid(message) => Fault::bad_request(message).into(),
            Error::Refused(refusal) => refused(refusal).into(),
            Error::Settings { version, values, findings } => {
                super::configurations::refused(&version, &values, findings).into()
            }
            Error::NotTaken { instance, cause } => {
                let message = format!("Instance {instance}: {cause}");
                Fault::Trove { kind: Kind::Unprocessable, message, findings: cause.findings }.into()
            }
            Error::Busy { instance, kind } => {
                let message = format!(
                    "Instance {instance} is not currently available for an action to be performed \
                     (another operation is running: {}); hint: wait for it: coffer instance operations {instance}",
                    kind.name()
                );
                Fault::new(Kind::Unprocessable, message).into()
            }
            Error::QuotaExceeded(excesses) => {
                let resources: Vec<_> = excesses.iter().map(|excess| format!("'{}'", excess.resource)).collect();
                Fault::new(Kind::OverLimit, format!("Quota exceeded for resources: [{}].", resources.join(", "))).into()
            }
            Error::VolumeTooLarge { requested_gib, limit_gib } => {
                let message = format!(
                    "Volume 'size' cannot exceed maximum of {limit_gib} GB, {requested_gib} cannot be accepted."
                );
                Fault::new(Kind::OverLimit, message).into()
            }
            Error::Forbidden { what, role } => {
                Fault::new(Kind::Forbidden, format!("{what} needs the role {role}.")).into()
            }
            Error::Unsupported(datastore) => {
                Fault::new(Kind::Unprocessable, format!("Operation not supported for datastore {datastore}.")).into()
            }
            Error::NotReady { instance, status } => {
                Fault::new(Kind::Unprocessable, format!("Instance {instance} is not ready, status: {status}.")).into()
            }
            Error::Unavailable(message) => Fault::new(Kind::Unavailable, message).into(),
            Error::Internal(_) => Self::internal(error),
        }
    }
}

/// Trove answers 400 to a version that there is not, and 404 to everything else.
fn not_found(what: Thing, id: &str) -> Fault {
    let shown = coffer_wire::trove::check::clip(id);
    match what {
        Thing::Version => Fault::bad_request(format!("Datastore version '{shown}' cannot be found.")),
        Thing::Datastore => Fault::new(Kind::NotFound, format!("Datastore '{shown}' cannot be found.")),
        Thing::Group => Fault::new(Kind::NotFound, format!("Configuration group with ID {shown} could not be found.")),
        Thing::Instance | Thing::Flavor => Fault::no_resource(id),
    }
}

/// The errors of a refusal as one message, and all findings behind it.
fn refused(refusal: Refusal) -> Fault {
    let kind = if refusal.is_busy() { Kind::Unprocessable } else { Kind::BadRequest };
    let errors = refusal.0.iter().filter(|finding| finding.severity == Severity::Error);
    let message = errors.map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Fault::Trove { kind, message, findings: refusal.0 }
}
