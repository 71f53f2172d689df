//! A browser without a screen: keeps cookies as one does, follows redirects, fills in plain forms. `localhost` and the
//! names below it are the server under test, whatever its port; every other host is asked as it is.

use std::net::SocketAddr;

use http::{HeaderMap, header};
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Url};

use super::TestApp;

const MOST_REDIRECTS: usize = 20;

/// A browser of one person.
pub struct Browser {
    client: Client,
    server: SocketAddr,
    jar: Mutex<Vec<Cookie>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cookie {
    host: String,
    path: String,
    name: String,
    value: String,
}

/// An answer, and the addresses that led to it.
#[derive(Debug)]
pub struct Page {
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    /// Every address asked on the way, this one last.
    pub visited: Vec<Url>,
}

/// A form of a page.
#[derive(Debug)]
pub struct Form {
    pub action: Url,
    pub fields: Vec<(String, String)>,
}

impl Browser {
    pub fn new(app: &TestApp) -> Self {
        Self::at(app.replicas[0].addr)
    }

    pub fn at(server: SocketAddr) -> Self {
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(std::time::Duration::from_secs(60))
            .user_agent("Mozilla/5.0 (test)")
            .build()
            .expect("an HTTP client");
        Self { client, server, jar: Mutex::default() }
    }

    /// One request, no redirect followed. `origin`: as a page of that origin would send it.
    pub async fn ask(
        &self,
        method: Method,
        url: &Url,
        origin: Option<&str>,
        form: Option<&[(&str, &str)]>,
    ) -> Page {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut target = url.clone();
        if ours(&host) {
            target.set_host(Some(&self.server.ip().to_string())).expect("an address");
            target.set_port(Some(self.server.port())).expect("a port");
        }
        target.set_fragment(None);
        let mut request = self.client.request(method, target);
        if ours(&host) {
            request = request.header("host", &host);
        }
        let cookies = self.cookies_for(&host, url.path());
        if !cookies.is_empty() {
            request = request.header("cookie", cookies);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if let Some(form) = form {
            let body = Url::parse_with_params("http://here.invalid", form).expect("a query");
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body.query().unwrap_or_default().to_owned());
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        for line in headers.get_all(header::SET_COOKIE) {
            self.keep(&host, url.path(), line.to_str().expect("a cookie"));
        }
        let body = answer.text().await.unwrap_or_default();
        Page { url: url.clone(), status, headers, body, visited: vec![url.clone()] }
    }

    /// Opens an address and follows where it leads.
    pub async fn open(&self, url: &str) -> Page {
        let url = Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let page = self.ask(Method::GET, &url, None, None).await;
        self.follow(page, |_| true).await
    }

    /// Follows redirects, and refreshes of a page, while the next address is one that is wanted.
    pub async fn follow(&self, mut page: Page, wanted: impl Fn(&Url) -> bool) -> Page {
        for _ in 0..MOST_REDIRECTS {
            let Some(next) = page.leads_to().filter(|next| wanted(next)) else { return page };
            let mut visited = std::mem::take(&mut page.visited);
            page = self.ask(Method::GET, &next, None, None).await;
            visited.push(next);
            page.visited = visited;
        }
        panic!("redirected for ever: {:?}", page.visited)
    }

    /// Sends a form from the page it is on, with these fields filled in, and follows.
    pub async fn submit(&self, page: &Page, form: &Form, fill: &[(&str, &str)]) -> Page {
        let sent = self.submit_once(page, form, fill).await;
        self.follow(sent, |_| true).await
    }

    /// As [`Browser::submit`], not following.
    pub async fn submit_once(&self, page: &Page, form: &Form, fill: &[(&str, &str)]) -> Page {
        let mut fields: Vec<(&str, &str)> = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| fill.iter().all(|(filled, _)| filled != name))
            .collect();
        fields.extend(fill);
        let origin = page.url.origin().ascii_serialization();
        self.ask(Method::POST, &form.action, Some(&origin), Some(&fields)).await
    }

    /// The value of a cookie at a host.
    pub fn cookie(&self, host: &str, name: &str) -> Option<String> {
        let jar = self.jar.lock();
        jar.iter()
            .find(|cookie| cookie.host == host && cookie.name == name)
            .map(|cookie| cookie.value.clone())
    }

    /// Puts a cookie there, as someone with their hands on the browser could.
    pub fn plant(&self, host: &str, name: &str, value: &str) {
        self.put(Cookie { host: host.into(), path: "/".into(), name: name.into(), value: value.into() });
    }

    fn put(&self, cookie: Cookie) {
        let mut jar = self.jar.lock();
        jar.retain(|old| (&old.host, &old.path, &old.name) != (&cookie.host, &cookie.path, &cookie.name));
        jar.push(cookie);
    }

    fn cookies_for(&self, host: &str, path: &str) -> String {
        let mut fit: Vec<Cookie> = self
            .jar
            .lock()
            .iter()
            .filter(|cookie| cookie.host == host && below(&cookie.path, path))
            .cloned()
            .collect();
        fit.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<String> =
            fit.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        pairs.join("; ")
    }

    /// As RFC 6265bis: a `__Host-` cookie without its attributes is not kept.
    fn keep(&self, host: &str, at: &str, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let attributes: Vec<(String, String)> = parts
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let attribute =
            |key: &str| attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let folder =
            at.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
        let path = attribute("path").filter(|path| path.starts_with('/')).unwrap_or(folder).to_owned();
        if name.starts_with("__Host-")
            && (attribute("secure").is_none() || attribute("domain").is_some() || path != "/")
        {
            return;
        }
        let (host, name, value) = (host.to_owned(), name.to_owned(), value.to_owned());
        let gone = attribute("max-age").map_or_else(
            || attribute("expires").is_some_and(|expires| expires.contains("1970")),
            |age| age.parse::<i64>().is_ok_and(|age| age <= 0),
        );
        if gone {
            self.jar.lock().retain(|old| (&old.host, &old.path, &old.name) != (&host, &path, &name));
        } else {
            self.put(Cookie { host, path, name, value });
        }
    }
}

fn ours(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn below(cookie: &str, path: &str) -> bool {
    path == cookie
        || path.strip_prefix(cookie).is_some_and(|rest| cookie.ends_with('/') || rest.starts_with('/'))
}

impl Page {
    /// Where a browser goes on to from here by itself.
    pub fn leads_to(&self) -> Option<Url> {
        if (300..400).contains(&self.status) {
            let to = self.headers.get(header::LOCATION)?.to_str().ok()?;
            return self.url.join(to).ok();
        }
        let (_, rest) = self.body.split_once("http-equiv=\"refresh\" content=\"0;url=")?;
        let (to, _) = rest.split_once('"')?;
        self.url.join(&unescape(to)).ok()
    }

    /// The forms on the page, each with what is filled in already.
    pub fn forms(&self) -> Vec<Form> {
        self.body
            .split("<form")
            .skip(1)
            .filter_map(|text| {
                let text = text.split("</form>").next()?;
                let (head, inside) = text.split_once('>')?;
                let action = attribute(head, "action").unwrap_or_default();
                let fields = inside
                    .split("<input")
                    .skip(1)
                    .filter_map(|input| {
                        let input = input.split('>').next()?;
                        Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default()))
                    })
                    .collect();
                Some(Form { action: self.url.join(&action).ok()?, fields })
            })
            .collect()
    }

    pub fn set_cookies(&self) -> Vec<&str> {
        self.headers.get_all(header::SET_COOKIE).iter().filter_map(|line| line.to_str().ok()).collect()
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(unescape(rest.split('"').next()?))
}

fn unescape(text: &str) -> String {
    let named =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#38;", "&"), ("&#39;", "'"), ("&#x2F;", "/")];
    let text = named.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&amp;", "&")
}
