//! Faults: how an error looks on the wire. Three shapes, because the real service has three layers that answer.
//!
//! ```text
//!  Trove itself          {"badRequest": {"code": 400, "message": "..."}}
//!  the layer in front    {"message": "...<br /><br />\n...\n\n", "code": "403 Forbidden", "title": "Forbidden"}
//!  Keystone's            {"error": {"code": 401, "title": "Unauthorized", "message": "..."}}
//! ```

use coffer_core::finding::{Finding, Severity};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

/// The kinds of Trove's own faults, with their names and codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    OverLimit,
    Unprocessable,
    Internal,
    NotImplemented,
    Unavailable,
}

impl Kind {
    /// The key of the body.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "badRequest",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "itemNotFound",
            Self::Conflict => "conflict",
            Self::OverLimit => "overLimit",
            Self::Unprocessable => "unprocessableEntity",
            Self::Internal => "instanceFault",
            Self::NotImplemented => "notImplemented",
            Self::Unavailable => "serviceUnavailable",
        }
    }

    /// The HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::OverLimit => 413,
            Self::Unprocessable => 422,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }
}

/// One error as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Trove's own, with Coffer's `findings` where checks refused.
    Trove { kind: Kind, message: String, findings: Vec<Finding> },
    /// The layer in front of Trove: the code, its words, and the explanation as it stands on the wire.
    Front { code: u16, title: &'static str, message: String },
    /// Keystone's, for whoever is not known.
    Identity { code: u16, title: &'static str, message: String },
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Trove { kind, message: message.into(), findings: Vec::new() }
    }

    /// 400: what was sent makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, message)
    }

    /// 404 for an address that nothing answers to, and for a method that nothing answers with: Trove knows no 405.
    pub fn no_route() -> Self {
        Self::new(Kind::NotFound, "The resource could not be found.")
    }

    /// 404 for a resource, whether it never was or belongs to somebody else.
    pub fn no_resource(id: &str) -> Self {
        Self::new(Kind::NotFound, format!("Resource {} cannot be found.", crate::trove::check::clip(id)))
    }

    /// 501 for what Trove has and Coffer has not.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(Kind::NotImplemented, message)
    }

    /// 403 for a role that may not do this. `action` is Trove's name of it, such as `instance:create`.
    pub fn policy(action: &str) -> Self {
        Self::new(Kind::Forbidden, format!("Policy doesn't allow {action} to be performed."))
    }

    /// 403 for a path that names another project than the token's.
    pub fn other_tenant(own: &str) -> Self {
        let message = format!(
            "Access was denied to this resource.<br /><br />\nUser with tenant id {own} cannot access this resource.\n\n"
        );
        Self::Front { code: 403, title: "Forbidden", message }
    }

    /// 400 for what is not JSON.
    pub fn malformed() -> Self {
        let message = "Malformed request body<br /><br />\n\n\n".to_owned();
        Self::Front { code: 400, title: "Bad Request", message }
    }

    /// 415 for a body that does not say it is JSON.
    pub fn media_type(given: &str) -> Self {
        let given = crate::trove::check::clip(given);
        let message = format!("The request media type {given} is not supported by this server.\n<br /><br />\n");
        Self::Front { code: 415, title: "Unsupported Media Type", message }
    }

    /// 413 for a body that is longer than anything this API takes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Kind::OverLimit, format!("The request body is longer than {limit} bytes."))
    }

    /// 401 for whoever is not known. One answer for every reason, so that it tells nothing.
    pub fn unauthenticated() -> Self {
        let message = "The request you have made requires authentication.".to_owned();
        Self::Identity { code: 401, title: "Unauthorized", message }
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::Trove { kind, .. } => kind.code(),
            Self::Front { code, .. } | Self::Identity { code, .. } => *code,
        }
    }

    /// What it says.
    pub fn message(&self) -> &str {
        match self {
            Self::Trove { message, .. } | Self::Front { message, .. } | Self::Identity { message, .. } => message,
        }
    }
}

/// The inside of Trove's and Keystone's shapes.
#[derive(Serialize)]
struct Inside<'a> {
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    findings: &'a [Finding],
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Trove { kind, message, findings } => {
                let inside = Inside { code: kind.code(), title: None, message, findings };
                map.serialize_entry(kind.name(), &inside)?;
            }
            Self::Front { code, title, message } => {
                map.serialize_entry("message", message)?;
                map.serialize_entry("code", &format!("{code} {title}"))?;
                map.serialize_entry("title", title)?;
            }
            Self::Identity { code, title, message } => {
                let inside = Inside { code: *code, title: Some(title), message, findings: &[] };
                map.serialize_entry("error", &inside)?;
            }
        }
        map.end()
    }
}

/// How a fault of Trove's own looks inside, for the description of the API.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FaultBody {
    pub code: u16,
    pub message: String,
    /// Everything that stands against what was asked, where checks refused it. Coffer's addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingBody>,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingBody {
    /// A stable name for machines, such as `redis.acl.pubsub`.
    pub id: String,
    /// `error`, `warning` or `notice`.
    #[schema(value_type = String)]
    pub severity: Severity,
    pub object: String,
    pub message: String,
    pub remedy: String,
}

impl From<Finding> for FindingBody {
    fn from(f: Finding) -> Self {
        Self { id: f.id, severity: f.severity, object: f.object, message: f.message, remedy: f.remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Kind};

    #[test]
    fn faults_have_the_three_shapes_of_the_real_service() {
        let check = |fault: &Fault, code: u16, body: &str| {
            assert_eq!(fault.code(), code);
            assert_eq!(serde_json::to_string(fault).expect("a fault"), body);
        };
        check(&Fault::no_route(), 404, r#"{"itemNotFound":{"code":404,"message":"The resource could not be found."}}"#);
        check(
            &Fault::unauthenticated(),
            401,
            r#"{"error":{"code":401,"title":"Unauthorized","message":"The request you have made requires authentication."}}"#,
        );
        check(
            &Fault::other_tenant("a0"),
            403,
            r#"{"message":"Access was denied to this resource.<br /><br />\nUser with tenant id a0 cannot access this resource.\n\n","code":"403 Forbidden","title":"Forbidden"}"#,
        );
        check(&Fault::new(Kind::OverLimit, "x"), 413, r#"{"overLimit":{"code":413,"message":"x"}}"#);
    }
}
