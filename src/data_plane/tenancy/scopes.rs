//! What a key with scopes may touch: `tasks:read`, `tasks:write`. Which operation needs which is read off the OpenAPI
//! document (its tag and its method), so that a new operation has its scope without anybody remembering it. What is not
//! in the document is closed to such a key.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;

use crate::kernel::{Error, FieldError, Result, codes};

/// Most scopes of one key.
const MOST: usize = 50;

/// What a key was given; none for one that may do all that its role may, and for people.
pub type Held = Option<Arc<[Box<str>]>>;

/// Every operation's scope.
#[derive(Clone, Debug, Default)]
pub struct Scopes {
    by_path: HashMap<String, Vec<(Method, Box<str>)>>,
}

/// The scope of an operation with this tag and method: reading is `GET`, all else is writing, and neither includes the
/// other.
pub fn scope_of(tag: &str, method: &Method) -> String {
    let verb = if *method == Method::GET { "read" } else { "write" };
    format!("{tag}:{verb}")
}

impl Scopes {
    /// From (path as it is registered, method, scope).
    pub fn new(operations: impl IntoIterator<Item = (String, Method, String)>) -> Self {
        let mut by_path: HashMap<String, Vec<(Method, Box<str>)>> = HashMap::new();
        for (path, method, scope) in operations {
            by_path.entry(path).or_default().push((method, scope.into()));
        }
        Self { by_path }
    }

    /// All there are, in order.
    pub fn all(&self) -> BTreeSet<&str> {
        self.by_path.values().flatten().map(|(_, scope)| &**scope).collect()
    }

    /// Whether a key that holds these scopes may go on.
    ///
    /// # Errors
    /// `forbidden` with the scope that is missing.
    pub fn check(&self, held: &Held, method: &Method, path: Option<&str>) -> Result<()> {
        let Some(held) = held else { return Ok(()) };
        // A HEAD is answered by what answers GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let operations = path.and_then(|path| self.by_path.get(path));
        let needed = operations.and_then(|all| all.iter().find(|(one, _)| one == method)).map(|(_, s)| s);
        match needed {
            Some(needed) if held.contains(needed) => Ok(()),
            Some(needed) => {
                Err(Error::new(&codes::FORBIDDEN).detail(format!("this key has no scope {needed}")))
            }
            None => Err(Error::new(&codes::FORBIDDEN).detail("this is closed to a key with scopes")),
        }
    }

    /// Whether a caller that holds `held` may make a key with the scopes `wanted`.
    ///
    /// # Errors
    /// `invalid_fields` for scopes that do not exist, or too many; `forbidden` for more than the caller has.
    pub fn grant(&self, held: &Held, wanted: Option<&[String]>) -> Result<()> {
        let all = self.all();
        let unknown = |(at, scope): (usize, &String)| {
            let message = "is no scope; a scope is the tag of an operation and read or write".to_owned();
            (!all.contains(scope.as_str())).then(|| FieldError { field: format!("scopes[{at}]"), message })
        };
        match wanted {
            Some(wanted) if wanted.is_empty() || wanted.len() > MOST => {
                return Err(Error::field("scopes", format!("has 1 to {MOST} scopes, or is left out")));
            }
            Some(wanted) => {
                let wrong: Vec<FieldError> = wanted.iter().enumerate().filter_map(unknown).collect();
                if !wrong.is_empty() {
                    return Err(Error::fields(wrong));
                }
            }
            None => {}
        }
        let Some(held) = held else { return Ok(()) };
        let within =
            wanted.is_some_and(|wanted| wanted.iter().all(|scope| held.iter().any(|own| **own == **scope)));
        if within {
            return Ok(());
        }
        Err(Error::new(&codes::FORBIDDEN).detail("a key with scopes makes keys with scopes of its own only"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes() -> Scopes {
        Scopes::new([
            ("/tasks".to_owned(), Method::GET, scope_of("tasks", &Method::GET)),
            ("/tasks".to_owned(), Method::POST, scope_of("tasks", &Method::POST)),
        ])
    }

    fn held(scopes: &[&str]) -> Held {
        Some(scopes.iter().map(|scope| Box::from(*scope)).collect())
    }

    #[test]
    fn a_key_reaches_what_its_scopes_name_and_nothing_unknown() {
        let scopes = scopes();
        for (have, method, path, good) in [
            (None, Method::POST, Some("/tasks"), true),
            (None, Method::POST, None, true),
            (held(&["tasks:read"]), Method::GET, Some("/tasks"), true),
            (held(&["tasks:read"]), Method::HEAD, Some("/tasks"), true),
            (held(&["tasks:read"]), Method::POST, Some("/tasks"), false),
            (held(&["tasks:write"]), Method::GET, Some("/tasks"), false),
            (held(&["tasks:write"]), Method::POST, Some("/tasks"), true),
            (held(&["tasks:read", "tasks:write"]), Method::DELETE, Some("/tasks"), false),
            (held(&["tasks:read"]), Method::GET, Some("/members"), false),
            (held(&["tasks:read"]), Method::GET, None, false),
            (held(&[]), Method::GET, Some("/tasks"), false),
        ] {
            assert_eq!(scopes.check(&have, &method, path).is_ok(), good, "{have:?} {method} {path:?}");
        }
    }

    #[test]
    fn a_key_gives_no_more_than_it_has() {
        let scopes = scopes();
        let wanted = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let read = wanted(&["tasks:read"]);
        assert!(scopes.grant(&None, None).is_ok());
        assert!(scopes.grant(&None, Some(&read)).is_ok());
        assert!(scopes.grant(&held(&["tasks:read"]), Some(&read)).is_ok());
        for (have, want) in [
            (None, Some(wanted(&["tasks:all"]))),
            (None, Some(wanted(&["*"]))),
            (None, Some(wanted(&[]))),
            (held(&["tasks:read"]), None),
            (held(&["tasks:read"]), Some(wanted(&["tasks:write"]))),
            (held(&["tasks:read"]), Some(wanted(&["tasks:read", "tasks:write"]))),
        ] {
            assert!(scopes.grant(&have, want.as_deref()).is_err(), "{have:?} {want:?}");
        }
    }
}
