//! Errors to gRPC codes: the only place that names a code. docs/errors.md says what callers do next.
//!
//! To every CO a code is final unless it is ABORTED, UNAVAILABLE, DEADLINE_EXCEEDED or CANCELLED: it
//! then forgets the attempt. So a final code is only given when nothing of the attempt is left.

use crate::error::{Error, panic_text};
use std::any::Any;
use tonic::{Code, Status, codegen::http};

/// The code of an error.
pub fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::NotFound(_) => Code::NotFound,
        Error::Incompatible(_) => Code::AlreadyExists,
        Error::Busy(_) | Error::BadToken(_) => Code::Aborted,
        Error::Refused(_) | Error::NotOffered(_) => Code::FailedPrecondition,
        Error::Forbidden(_) => Code::PermissionDenied,
        Error::NoSpace(_) => Code::ResourceExhausted,
        Error::OutOfRange(_) => Code::OutOfRange,
        Error::Unavailable(_) => Code::Unavailable,
        // CSI names no code for a full disk outside CreateVolume and CreateSnapshot; this is the one that is retried.
        Error::Os { source, .. } if source.is_no_space() => Code::ResourceExhausted,
        Error::Os { source, .. } if source.is_in_the_way() => Code::Aborted,
        // The driver is ending; the same request after its restart starts anew.
        Error::Os { source, .. } if source.is_cancelled() => Code::Unavailable,
        Error::Damaged(_) | Error::Os { .. } | Error::Internal(_) => Code::Internal,
    }
}

/// What goes over the wire: the code and the whole chain of causes, no details (CSI: MUST be empty).
pub fn of(error: &Error) -> Status {
    status(code(error), presentable(&error.chain()))
}

/// A message becomes a header, for which clients take as little as 8 KiB with each byte written as three.
const LONGEST: usize = 2 << 10;

/// One line, without the middle where it is too long: it begins with what failed and ends with why.
fn presentable(message: &str) -> String {
    let one_line = |part: &str| part.replace(char::is_control, " ");
    if message.len() <= LONGEST {
        return one_line(message);
    }
    let head = message.floor_char_boundary(LONGEST / 2);
    let tail = message.ceil_char_boundary(message.len() - LONGEST / 3);
    format!("{} … {}", one_line(&message[..head]), one_line(&message[tail..]))
}

/// The deadline is near and the work goes on. The text is constant: the snapshotter shows every new
/// text to the user as an event.
pub fn still_running() -> Status {
    status(Code::Aborted, "the operation is still running; repeat the same request to wait for it")
}

/// A panic outside the work of a request, which has its own net.
#[expect(clippy::needless_pass_by_value, reason = "tower-http gives the panic away")]
pub fn of_panic(panic: Box<dyn Any + Send + 'static>) -> http::Response<tonic::body::Body> {
    tracing::error!(panic = panic_text(&*panic), "a request panicked");
    status(Code::Internal, "the request hit a bug in the driver; see its log").into_http()
}

#[expect(clippy::disallowed_methods, reason = "the one place that it is disallowed for")]
fn status(code: Code, message: impl Into<String>) -> Status {
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os;

    fn os_error(number: i32) -> Error {
        let source = os::Error::Path {
            op: "write".into(),
            path: "/p".into(),
            source: std::io::Error::from_raw_os_error(number),
        };
        Error::Os { doing: "x".into(), source }
    }

    #[test]
    fn messages_are_short_lines() {
        assert_eq!(presentable("as it is: ü"), "as it is: ü");
        assert_eq!(presentable("a\nb\u{1b}c"), "a b c");
        for long in ["é".repeat(5000), "x".repeat(100_000), format!("x{}", "\u{20ac}".repeat(900))] {
            let short = presentable(&long);
            assert!(short.len() <= LONGEST && short.contains(" … "), "{}", short.len());
        }
    }

    #[test]
    fn every_meaning_has_its_code() {
        let rows = [
            (Error::Invalid(String::new()), Code::InvalidArgument),
            (Error::NotFound(String::new()), Code::NotFound),
            (Error::Incompatible(String::new()), Code::AlreadyExists),
            (Error::Busy(String::new()), Code::Aborted),
            (Error::Refused(String::new()), Code::FailedPrecondition),
            (Error::NotOffered(String::new()), Code::FailedPrecondition),
            (Error::Forbidden(String::new()), Code::PermissionDenied),
            (Error::NoSpace(String::new()), Code::ResourceExhausted),
            (Error::OutOfRange(String::new()), Code::OutOfRange),
            (Error::Unavailable(String::new()), Code::Unavailable),
            (Error::BadToken(String::new()), Code::Aborted),
            (Error::Damaged(String::new()), Code::Internal),
            (Error::Internal(String::new()), Code::Internal),
            (os_error(28), Code::ResourceExhausted),
            (os_error(11), Code::Aborted),
            (os_error(5), Code::Internal),
        ];
        for (error, expected) in rows {
            assert_eq!(code(&error), expected, "{error:?}");
            let is_final = !matches!(expected, Code::Aborted | Code::Unavailable);
            assert_eq!(error.is_final(), is_final, "{error:?}");
        }
    }
}
