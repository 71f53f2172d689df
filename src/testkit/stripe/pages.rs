//! Pages for a browser: Checkout, the Billing Portal, an invoice, and the dashboard. They work without JavaScript.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, header};
use serde_json::Value;

use super::errors::Refusal;
use super::operations::{Call, checkout, payments, portal, prorations};
use super::state::{DAY, State, data, int, rfc3339, text};
use super::{Card, Inside, clock, operations};

/// A page, or where to go instead.
enum Page {
    Shown(u16, String),
    To(String),
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1f36}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e3e8ee;vertical-align:top}\
form{display:inline-block;margin:.2rem .4rem .2rem 0}button{font:inherit;padding:.45rem .9rem;border:1px solid #c1c9d2;border-radius:6px;background:#fff;cursor:pointer}\
.main{background:#635bff;color:#fff;border-color:#635bff}.note{background:#fff8c5;padding:.5rem .8rem;border-radius:6px}.bad{background:#ffe7e7;padding:.5rem .8rem;border-radius:6px}\
code{font-size:13px}h1{font-size:1.4rem}h2{font-size:1.1rem}";

/// Answers a request that is not the API's.
pub fn answer(inside: &Arc<Inside>, head: &Parts, body: &Bytes) -> Response {
    let site = head.headers.get("sec-fetch-site").and_then(|site| site.to_str().ok()).unwrap_or_default();
    let post = head.method == Method::POST;
    let page = if post && matches!(site, "cross-site" | "same-site") {
        Page::Shown(403, frame("Not from there", "<p>This form was sent by another site.</p>"))
    } else {
        let form = fields(std::str::from_utf8(body).unwrap_or_default());
        let parts: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        let now = inside.now();
        let mut state = inside.state.lock();
        clock::run_to(&mut state, now);
        let made = match (parts.as_slice(), post) {
            (["c", "pay", id], false) => checkout_page(&state, id, None),
            (["c", "pay", id], true) => checkout_done(&mut state, id, &form),
            (["p", "session", id], false) => portal_page(&state, id, ""),
            (["p", "session", id], true) => portal_done(&mut state, id, &form),
            (["i", id], false) => invoice_page(&state, id, ""),
            (["i", id], true) => invoice_done(&mut state, id, &form),
            ([""], false) => Ok(dashboard(&state, inside)),
            (["clock"], true) => {
                drop(state);
                Ok(advance(inside, &form))
            }
            _ => Ok(Page::Shown(404, frame("Nothing here", "<p>There is no such page.</p>"))),
        };
        made.unwrap_or_else(|refusal| {
            let why = refusal.body("")["error"]["message"].as_str().unwrap_or_default().to_owned();
            Page::Shown(
                refusal.status,
                frame("This cannot be done", &format!("<p class=bad>{}</p>", escape(&why))),
            )
        })
    };
    let response = match page {
        Page::Shown(status, html) => Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-store")
            .body(Body::from(html)),
        Page::To(url) => Response::builder().status(303).header(header::LOCATION, url).body(Body::empty()),
    };
    response.expect("a page")
}

fn fields(form: &str) -> HashMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://form/?{form}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

fn frame(title: &str, inner: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} · stand-in for Stripe</title><style>{STYLE}</style></head><body>\
         <p class=note>This is a stand-in for Stripe, for development and tests. Nobody is charged.</p><h1>{title}</h1>{inner}</body></html>\n"
    )
}

/// A form of one button.
fn button(action: &str, name: &str, value: &str, label: &str, main: bool) -> String {
    let class = if main { " class=\"main\"" } else { "" };
    format!(
        "<form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"{name}\" value=\"{}\"><button{class}>{}</button></form>",
        escape(action),
        escape(value),
        escape(label)
    )
}

fn money(minor: i64, currency: &str) -> String {
    let sign = if minor < 0 { "−" } else { "" };
    format!("{sign}{}.{:02} {}", minor.abs() / 100, minor.abs() % 100, currency.to_uppercase())
}

fn row(cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr>{cells}</tr>")
}

fn table(head: &[&str], rows: &[String]) -> String {
    let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!("<table><tr>{head}</tr>{}</table>", rows.concat())
}

fn checkout_page(state: &State, id: &str, refused: Option<&str>) -> Result<Page, Refusal> {
    let session = state.get("checkout.session", id)?;
    if text(&session, "status") != "open" {
        let inner = format!("<p>This Checkout Session is {}.</p>", escape(text(&session, "status")));
        return Ok(Page::Shown(410, frame("Checkout", &inner)));
    }
    let currency = text(&session, "currency");
    let items: Vec<String> = session["_items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            let metered = item["price"]["recurring"]["usage_type"] == "metered";
            let amount =
                if metered { "by use".to_owned() } else { money(int(item, "amount_total"), currency) };
            row(&[escape(text(item, "description")), amount])
        })
        .collect();
    let days = session["_subscription"]["trial_period_days"].as_i64().map(|days| state.now + days * DAY);
    let trial = session["_subscription"]["trial_end"].as_i64().or(days);
    let trial = trial.map_or_else(String::new, |end| format!("<p>Free until {}.</p>", rfc3339(end)));
    let bad = refused.map_or_else(String::new, |why| format!("<p class=bad>{}</p>", escape(why)));
    let due = money(int(&session, "amount_total"), currency);
    let here = format!("/c/pay/{id}");
    let mut inner =
        format!("{bad}{}{trial}<p>Due now: <b>{due}</b></p>", table(&["what", "a month"], &items));
    inner.push_str(&button(&here, "card", "works", "Pay with a card that works", true));
    inner.push_str(&button(
        &here,
        "card",
        "fails_later",
        "Pay with a card that fails at the next invoice",
        false,
    ));
    inner.push_str(&button(&here, "card", "declined", "Pay with a card that is declined", false));
    if session["cancel_url"].is_string() {
        inner.push_str(&format!(
            "<p><a href=\"{}\">Back without paying</a></p>",
            escape(text(&session, "cancel_url"))
        ));
    }
    Ok(Page::Shown(if refused.is_some() { 402 } else { 200 }, frame("Checkout", &inner)))
}

fn checkout_done(state: &mut State, id: &str, form: &HashMap<String, String>) -> Result<Page, Refusal> {
    let card = match form.get("card").map(String::as_str) {
        Some("works") => Card::Works,
        Some("fails_later") => Card::FailsLater,
        _ => Card::Declined,
    };
    match checkout::complete(state, id, card) {
        Ok(session) => Ok(Page::To(checkout::success_url(&session))),
        Err(refusal) if refusal.status == 402 => checkout_page(state, id, Some("Your card was declined.")),
        Err(refusal) => Err(refusal),
    }
}

fn portal_page(state: &State, id: &str, said: &str) -> Result<Page, Refusal> {
    let session = portal::open(state, id)?;
    let customer = text(&session, "customer");
    let here = format!("/p/session/{id}");
    let card = match state.card_of(customer) {
        Some(card) => {
            let works = if card["_works"] == true { "works" } else { "fails" };
            format!("Visa ending in {} ({works})", escape(text(&card["card"], "last4")))
        }
        None => "none".to_owned(),
    };
    let note = if said.is_empty() { String::new() } else { format!("<p class=note>{}</p>", escape(said)) };
    let mut inner = format!("{note}<h2>Card</h2><p>{card}</p>");
    inner.push_str(&button(&here, "do", "card_works", "Use a card that works", true));
    inner.push_str(&button(&here, "do", "card_fails", "Use a card that fails", false));
    inner.push_str("<h2>Subscriptions</h2>");
    for one in state.all("subscription").into_iter().filter(|one| text(one, "customer") == customer) {
        let (_, end) = prorations::period(one);
        let what =
            data(one, "items").first().map(|item| operations::totals::product_name(state, &item["price"]));
        let status = text(one, "status");
        inner.push_str(&format!(
            "<p>{} — <b>{status}</b>, this period ends {}</p>",
            escape(&what.unwrap_or_default()),
            rfc3339(end)
        ));
        let own = text(one, "id");
        if status != "canceled" && one["cancel_at_period_end"] == true {
            inner.push_str("<p>It ends with this period.</p>");
            inner.push_str(&button(&here, "keep", own, "Keep it", false));
        } else if status != "canceled" && status != "incomplete_expired" {
            inner.push_str(&button(&here, "cancel", own, "Cancel at the end of the period", false));
        }
    }
    let rows: Vec<String> = state
        .all("invoice")
        .into_iter()
        .filter(|invoice| text(invoice, "customer") == customer)
        .map(|invoice| {
            let name = invoice["number"].as_str().unwrap_or("draft");
            row(&[
                format!("<a href=\"/i/{}\">{}</a>", escape(text(invoice, "id")), escape(name)),
                escape(text(invoice, "status")),
                money(int(invoice, "total"), text(invoice, "currency")),
            ])
        })
        .collect();
    inner.push_str(&format!("<h2>Invoices</h2>{}", table(&["number", "status", "total"], &rows)));
    if session["return_url"].is_string() {
        inner.push_str(&format!("<p><a href=\"{}\">Return</a></p>", escape(text(&session, "return_url"))));
    }
    Ok(Page::Shown(200, frame("Billing", &inner)))
}

fn portal_done(state: &mut State, id: &str, form: &HashMap<String, String>) -> Result<Page, Refusal> {
    let session = portal::open(state, id)?;
    let customer = text(&session, "customer").to_owned();
    let ends = |ends: bool| serde_json::json!({ "cancel_at_period_end": ends });
    let change = |state: &mut State, subscription: &String, params: &Value| {
        let own = state.get("subscription", subscription)?;
        if text(&own, "customer") != customer {
            return Err(Refusal::missing("subscription", subscription));
        }
        let ids = std::slice::from_ref(subscription);
        operations::call(state, &Call { operation: "Subscriptions.update", ids, params })
    };
    let said = match (form.get("do").map(String::as_str), form.get("cancel"), form.get("keep")) {
        (Some(card), _, _) => {
            state.card_put(&customer, card == "card_works")?;
            "The card was changed. Open invoices can be paid on their own pages."
        }
        (_, Some(subscription), _) => {
            change(state, subscription, &ends(true))?;
            "The subscription ends with this period."
        }
        (_, _, Some(subscription)) => {
            change(state, subscription, &ends(false))?;
            "The subscription goes on."
        }
        _ => "",
    };
    portal_page(state, id, said)
}

fn invoice_page(state: &State, id: &str, said: &str) -> Result<Page, Refusal> {
    let invoice = state.get("invoice", id)?;
    let currency = text(&invoice, "currency");
    let lines: Vec<String> = data(&invoice, "lines")
        .iter()
        .map(|line| {
            let (start, end) = (int(&line["period"], "start"), int(&line["period"], "end"));
            row(&[
                escape(text(line, "description")),
                format!("{} – {}", rfc3339(start), rfc3339(end)),
                line["quantity"].to_string(),
                money(int(line, "amount"), currency),
            ])
        })
        .collect();
    let note = if said.is_empty() { String::new() } else { format!("<p class=bad>{}</p>", escape(said)) };
    let number = invoice["number"].as_str().unwrap_or("draft").to_owned();
    let mut inner = format!(
        "{note}<p>{} — <b>{}</b></p>{}<p>Total {}, paid {}, credited {}</p>",
        escape(&number),
        escape(text(&invoice, "status")),
        table(&["what", "when", "quantity", "amount"], &lines),
        money(int(&invoice, "total"), currency),
        money(int(&invoice, "amount_paid"), currency),
        money(
            int(&invoice, "pre_payment_credit_notes_amount")
                + int(&invoice, "post_payment_credit_notes_amount"),
            currency
        ),
    );
    if matches!(text(&invoice, "status"), "open" | "uncollectible") {
        let here = format!("/i/{id}");
        inner.push_str(&button(&here, "card", "works", "Pay with a card that works", true));
        inner.push_str(&button(&here, "card", "own", "Try the card on file", false));
    }
    Ok(Page::Shown(200, frame("Invoice", &inner)))
}

fn invoice_done(state: &mut State, id: &str, form: &HashMap<String, String>) -> Result<Page, Refusal> {
    let invoice = state.get("invoice", id)?;
    if form.get("card").is_some_and(|card| card == "works") {
        state.card_put(text(&invoice, "customer"), true)?;
    }
    match payments::pay(state, id, &Value::Null) {
        Ok(_) => Ok(Page::To(format!("/i/{id}"))),
        Err(refusal) if refusal.status == 402 => invoice_page(state, id, "The card was declined."),
        Err(refusal) => Err(refusal),
    }
}

fn advance(inside: &Arc<Inside>, form: &HashMap<String, String>) -> Page {
    let days =
        form.get("days").and_then(|days| days.parse::<i64>().ok()).filter(|days| (1..=366).contains(days));
    let hours = form
        .get("hours")
        .and_then(|hours| hours.parse::<i64>().ok())
        .filter(|hours| (1..=48).contains(hours));
    let by = chrono::Duration::days(days.unwrap_or(0)) + chrono::Duration::hours(hours.unwrap_or(0));
    inside.clock.lock().advance(by);
    let now = inside.now();
    clock::run_to(&mut inside.state.lock(), now);
    Page::To("/".to_owned())
}

/// The dashboard: the clock, what there is, what was delivered.
fn dashboard(state: &State, inside: &Inside) -> Page {
    let mut inner =
        format!("<h2>Clock</h2><p>It is <b>{}</b> here, and for the platform.</p>", rfc3339(inside.now()));
    for (name, value, label) in [
        ("hours", "2", "Advance two hours"),
        ("days", "1", "Advance a day"),
        ("days", "7", "Advance a week"),
        ("days", "31", "Advance a month"),
    ] {
        inner.push_str(&button("/clock", name, value, label, false));
    }
    let customers: Vec<String> = state
        .all("customer")
        .into_iter()
        .take(50)
        .map(|one| {
            let id = text(one, "id");
            let own = |kind: &str, show: &dyn Fn(&Value) -> String| -> String {
                let all = state.all(kind).into_iter().filter(|object| text(object, "customer") == id);
                all.take(6).map(show).collect::<Vec<_>>().join("<br>")
            };
            row(&[
                format!("{}<br><code>{}</code>", escape(text(one, "name")), escape(id)),
                own("subscription", &|sub| {
                    let (_, end) = prorations::period(sub);
                    format!(
                        "<code>{}</code> {} until {}",
                        escape(text(sub, "id")),
                        escape(text(sub, "status")),
                        rfc3339(end)
                    )
                }),
                own("invoice", &|invoice| {
                    let id = escape(text(invoice, "id"));
                    let total = money(int(invoice, "total"), text(invoice, "currency"));
                    format!(
                        "<a href=\"/i/{id}\"><code>{id}</code></a> {} {total}",
                        escape(text(invoice, "status"))
                    )
                }),
            ])
        })
        .collect();
    inner.push_str(&format!(
        "<h2>Customers</h2>{}",
        table(&["customer", "subscriptions", "invoices"], &customers)
    ));
    let counts: Vec<String> =
        state.objects.keys().map(|kind| format!("{} {}", state.all(kind).len(), escape(kind))).collect();
    inner.push_str(&format!("<p>{} · {} meter events</p>", counts.join(" · "), state.usage.len()));
    let deliveries: Vec<String> = state
        .deliveries
        .iter()
        .rev()
        .take(40)
        .map(|one| {
            let status = one.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            let became = match (one.done, one.gave_up, one.attempts) {
                (true, _, _) => format!("{status} after {}", one.attempts),
                (_, true, _) => "given up".to_owned(),
                (_, _, 0) => "waits".to_owned(),
                (_, _, attempts) => format!("{status}, {attempts} so far"),
            };
            row(&[
                format!("<code>{}</code>", escape(&one.event)),
                escape(&one.kind),
                escape(&one.url),
                became,
            ])
        })
        .collect();
    inner
        .push_str(&format!("<h2>Deliveries</h2>{}", table(&["event", "type", "to", "outcome"], &deliveries)));
    Page::Shown(200, frame("Stripe, standing in", &inner))
}
