//! What a person does with a tab, and what they see in it. Things are found as people find them: a field by its label, a
//! link or a button by its name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::pictures;
use super::pipe::{Event, Pipe};
use crate::testkit::eventually;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: &str = include_str!("look.js");

/// What every script below may use: what is shown, and what it is called.
const FINDERS: &str = r"
const shown = (e) => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0 && e.checkVisibility({ visibilityProperty: true }); };
const plain = (text) => (text ?? '').trim().replace(/\s+/g, ' ');
const name = (e) => plain(e.getAttribute('aria-label') ?? e.innerText);
const control = (wanted) => [...document.querySelectorAll('a[href], button, summary')].find((e) => shown(e) && name(e) === wanted);
const field = (wanted) => [...document.querySelectorAll('label')].find((e) => plain(e.textContent) === wanted)?.control;
";

/// One tab of one person.
pub struct Tab {
    pipe: Pipe,
    session: String,
    seen: Arc<Mutex<Seen>>,
}

/// What happened in a tab beside its pages.
#[derive(Default)]
struct Seen {
    /// What a developer's console would show in red or yellow.
    complaints: Vec<String>,
    /// Hosts that anything was asked of.
    hosts: BTreeSet<String>,
    /// Questions that were put, and answered with yes.
    questions: Vec<String>,
}

impl Tab {
    pub(super) async fn new(pipe: Pipe, session: String) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let events = pipe.events(&session);
        let tab = Self { pipe: pipe.clone(), session: session.clone(), seen: seen.clone() };
        tokio::spawn(watch(events, pipe, session, seen));
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        // It behaves as the tab in front, though others have theirs open.
        tab.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
        tab
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&self, method: &str, params: Value) -> Result<Value, String> {
        self.pipe.call(Some(&self.session), method, params).await
    }

    /// Opens an address, as if it was typed.
    pub async fn open(&self, url: &str) {
        let said = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(said["errorText"].is_null(), "{url}: {said}");
    }

    /// Runs an expression in the page. Fails while a page is going and the next not there yet.
    async fn script(&self, expression: &str) -> Result<Value, String> {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut said = self.try_call("Runtime.evaluate", params).await?;
        match said["exceptionDetails"].is_null() {
            true => Ok(said["result"]["value"].take()),
            false => Err(said["exceptionDetails"].to_string()),
        }
    }

    async fn found(&self, body: &str) -> Result<Value, String> {
        self.script(&format!("(() => {{ {FINDERS} {body} }})()")).await
    }

    /// Where the tab is.
    pub async fn url(&self) -> String {
        let url = self.script("location.href").await.unwrap_or_default();
        url.as_str().unwrap_or_default().to_owned()
    }

    /// The text of the page, as it is shown.
    pub async fn text(&self) -> String {
        let text = self.script("document.body?.innerText ?? ''").await.unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page is loaded and shows these words.
    pub async fn see(&self, words: &str) {
        eventually(PATIENCE, &format!("the page says {words:?}"), async || {
            let ready = self.script("document.readyState").await?;
            let text = self.text().await;
            if ready == "complete" && text.contains(words) {
                return Ok(());
            }
            Err(format!("{} ({ready}) says:\n{text}", self.url().await))
        })
        .await;
    }

    /// Waits until the tab is at this address, whatever its query, and the page is loaded.
    pub async fn arrive(&self, at: &str) {
        eventually(PATIENCE, &format!("the tab is at {at}"), async || {
            let ready = self.script("document.readyState").await?;
            let url = self.url().await;
            match ready == "complete" && url.split(['?', '#']).next() == Some(at) {
                true => Ok(()),
                false => Err(format!("{url} ({ready}) says:\n{}", self.text().await)),
            }
        })
        .await;
    }

    /// Waits until there is no link or button of this name to be seen any more.
    pub async fn gone(&self, name: &str) {
        let body = format!("return control({}) === undefined", json!(name));
        eventually(PATIENCE, &format!("{name:?} is gone"), async || {
            let ready = self.script("document.readyState").await?;
            match ready == "complete" && self.found(&body).await? == true {
                true => Ok(()),
                false => Err(self.text().await),
            }
        })
        .await;
    }

    /// Clicks the link or button of this name, with the mouse.
    pub async fn click(&self, name: &str) {
        let find = format!("const e = control({});", json!(name));
        self.hit(&find, name).await;
    }

    /// Types into the field of this label what replaces what was there.
    pub async fn fill(&self, label: &str, text: &str) {
        let find = format!("const e = field({});", json!(label));
        self.hit(&find, label).await;
        self.found(&format!("{find} e.select(); return true;")).await.expect("a field with text");
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Chooses in the list of this label.
    pub async fn choose(&self, label: &str, value: &str) {
        let body = format!(
            "const e = field({}); if (!e) return false; e.value = {}; e.dispatchEvent(new Event('change', {{ bubbles: true }})); return e.value === {};",
            json!(label),
            json!(value),
            json!(value)
        );
        eventually(PATIENCE, &format!("{value:?} can be chosen for {label:?}"), async || {
            match self.found(&body).await? == true {
                true => Ok(()),
                false => Err(self.text().await),
            }
        })
        .await;
    }

    /// Where the links within these elements lead, each once and in their order.
    pub async fn links(&self, within: &str) -> Vec<String> {
        let body = format!(
            "return [...new Set([...document.querySelectorAll({})].flatMap((e) => [...e.querySelectorAll('a[href]')]).map((a) => a.href))]",
            json!(within)
        );
        let links = self.found(&body).await.unwrap_or_default();
        let links = links.as_array().cloned().unwrap_or_default();
        links.iter().filter_map(|link| link.as_str().map(str::to_owned)).collect()
    }

    /// What the field of this label holds.
    pub async fn value(&self, label: &str) -> String {
        let value = self.found(&format!("return field({})?.value", json!(label))).await.unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Moves the mouse to the middle of what a script finds, and presses. Whatever lies above it is what is hit, so that
    /// must be the thing itself.
    async fn hit(&self, find: &str, name: &str) {
        let body = format!(
            "{find} if (!e) return 'not there'; e.scrollIntoView({{ block: 'center', behavior: 'instant' }});
             const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
             const top = document.elementFromPoint(x, y);
             return top === e || e.contains(top) ? [x, y] : `covered by ${{top?.outerHTML.slice(0, 100)}}`;"
        );
        let at = eventually(PATIENCE, &format!("{name:?} can be clicked"), async || {
            let ready = self.script("document.readyState").await?;
            let found = self.found(&body).await?;
            match found.as_array() {
                Some(at) if ready == "complete" => Ok((at[0].clone(), at[1].clone())),
                _ => Err(format!("{found} at {}:\n{}", self.url().await, self.text().await)),
            }
        })
        .await;
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let params = json!({ "type": kind, "x": at.0, "y": at.1, "button": button, "clickCount": 1 });
            // The page may be gone before the button is up.
            self.try_call("Input.dispatchMouseEvent", params).await.ok();
        }
    }

    /// Presses a key: `Tab`, `Enter`.
    pub async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            other => panic!("{other} is not a key that is known here"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let params =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// What has the focus: its name, or the name of its tag.
    pub async fn focus(&self) -> String {
        let body = "const e = document.activeElement; return name(e) || e.tagName.toLowerCase();";
        let focus = self.found(body).await.unwrap_or_default();
        focus.as_str().unwrap_or_default().to_owned()
    }

    /// The value of a cookie at an address, with everything that the browser keeps about it.
    pub async fn cookie(&self, url: &str, name: &str) -> Option<Value> {
        let said = self.call("Network.getCookies", json!({ "urls": [url] })).await;
        said["cookies"].as_array()?.iter().find(|cookie| cookie["name"] == name).cloned()
    }

    /// Pictures of the page on a desk and on a phone, light and dark, as `target/screenshots/<name>-….png`; in each, the
    /// page is as it should be for everybody (`look.js`).
    ///
    /// # Panics
    /// With what is wrong with the page.
    pub async fn picture(&self, name: &str) {
        let mut wrong = BTreeSet::new();
        for (device, width, height, scale) in [("desktop", 1280, 860, 1), ("phone", 390, 844, 2)] {
            let params = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": device == "phone" });
            self.call("Emulation.setDeviceMetricsOverride", params).await;
            for theme in ["light", "dark"] {
                let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
                self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
                let found = self.script(LOOK).await.unwrap_or_else(|error| json!([error]));
                let found = found.as_array().cloned().unwrap_or_default();
                wrong.extend(found.iter().map(|what| format!("{device}, {theme}: {what}")));
                let size = self.call("Page.getLayoutMetrics", json!({})).await;
                let size = &size["cssContentSize"];
                let clip =
                    json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
                let params = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
                let shot = self.call("Page.captureScreenshot", params).await;
                let png = BASE64.decode(shot["data"].as_str().unwrap_or_default().as_bytes());
                let file = pictures().join(format!("{name}-{device}-{theme}.png"));
                std::fs::write(&file, png.expect("a picture")).expect("a file for the picture");
            }
        }
        self.call("Emulation.clearDeviceMetricsOverride", json!({})).await;
        self.call("Emulation.setEmulatedMedia", json!({ "features": [] })).await;
        let wrong: Vec<String> = wrong.into_iter().collect();
        assert!(wrong.is_empty(), "{name} ({}):\n{}", self.url().await, wrong.join("\n"));
    }

    /// Nothing so far was refused by a page's policy, was missing, or went wrong in a script, and nobody but this machine
    /// was asked anything.
    ///
    /// # Panics
    /// With what was.
    pub fn assert_quiet(&self) {
        let seen = self.seen.lock();
        assert!(seen.complaints.is_empty(), "the console says:\n{}", seen.complaints.join("\n"));
        let away: Vec<_> = seen.hosts.iter().filter(|host| !is_here(host)).collect();
        assert!(away.is_empty(), "asked of elsewhere: {away:?}");
    }

    /// Forgets what went wrong so far, for a step that is meant to be refused. Gives it.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().complaints)
    }

    /// The questions that pages put before what cannot be undone.
    pub fn questions(&self) -> Vec<String> {
        self.seen.lock().questions.clone()
    }
}

fn is_here(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1") || host.ends_with(".localhost")
}

/// Notes what happens in a tab, and says yes to every question.
async fn watch(mut events: UnboundedReceiver<Event>, pipe: Pipe, session: String, seen: Arc<Mutex<Seen>>) {
    while let Some((method, params)) = events.recv().await {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match method.as_str() {
            "Page.javascriptDialogOpening" => {
                seen.lock().questions.push(text(&params["message"]));
                pipe.tell(&session, "Page.handleJavaScriptDialog", json!({ "accept": true }));
            }
            "Log.entryAdded"
                if params["entry"]["level"] != "info" && params["entry"]["level"] != "verbose" =>
            {
                let entry = &params["entry"];
                seen.lock().complaints.push(format!("{} ({})", text(&entry["text"]), text(&entry["url"])));
            }
            "Runtime.exceptionThrown" => {
                seen.lock().complaints.push(params["exceptionDetails"].to_string());
            }
            "Runtime.consoleAPICalled" if params["type"] == "error" || params["type"] == "warning" => {
                seen.lock().complaints.push(params["args"].to_string());
            }
            "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue" => {
                seen.lock().complaints.push(params["issue"]["details"].to_string());
            }
            "Network.requestWillBeSent" => {
                let url = reqwest::Url::parse(params["request"]["url"].as_str().unwrap_or_default());
                let host = url.ok().and_then(|url| url.host_str().map(str::to_owned));
                seen.lock().hosts.extend(host);
            }
            _ => {}
        }
    }
}
