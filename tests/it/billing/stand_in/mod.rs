//! The Stripe of our own, held against what is known of Stripe: what it accepts, what it remembers, what time does to it.

mod library;
mod lives;
mod requests;
mod usage;
mod webhooks;

use std::time::Duration;

use freehold::testkit::stripe::{Card, Options, Rates, StripeStandIn};
use reqwest::Method;
use serde_json::Value;

pub const DAY: Duration = Duration::from_secs(86_400);
pub const HOUR: Duration = Duration::from_secs(3_600);

/// A stand-in, and somebody who asks it plainly.
pub struct Shop {
    pub stripe: StripeStandIn,
    client: reqwest::Client,
}

/// A status and a body.
pub type Said = (u16, Value);

impl Shop {
    pub async fn open() -> Self {
        Self::with(Options { rates: Rates::NONE, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { stripe: StripeStandIn::start_with(options).await, client }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        parameters: &[(&str, &str)],
    ) -> reqwest::Result<Said> {
        let get = method == Method::GET;
        let mut request = self.client.request(method, format!("{}{path}", self.stripe.base_url));
        request = request.bearer_auth(&self.stripe.key).header("stripe-version", "2026-09-30.endive");
        if get {
            request = request.query(parameters);
        } else {
            let form = reqwest::Url::parse_with_params("http://form/", parameters).unwrap();
            let form = form.query().unwrap_or_default().to_owned();
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn post(&self, path: &str, parameters: &[(&str, &str)]) -> Said {
        self.ask(Method::POST, path, None, parameters).await.unwrap()
    }

    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Said {
        self.ask(Method::GET, path, None, parameters).await.unwrap()
    }

    /// What has to work.
    pub async fn made(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, body) = self.post(path, parameters).await;
        assert_eq!(status, 200, "{path} {parameters:?}: {body}");
        body
    }

    pub async fn customer(&self) -> String {
        let made = self.made("/v1/customers", &[("email", "ada@example.com"), ("name", "Ada")]).await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// A meter that adds up, and its id.
    pub async fn meter(&self, event_name: &str) -> String {
        let made = self
            .made(
                "/v1/billing/meters",
                &[
                    ("display_name", event_name),
                    ("event_name", event_name),
                    ("default_aggregation[formula]", "sum"),
                ],
            )
            .await;
        made["id"].as_str().unwrap().to_owned()
    }

    pub async fn event(&self, customer: &str, value: &str, identifier: &str) -> Said {
        self.post("/v1/billing/meter_events", &event(customer, value, identifier)).await
    }

    /// A product with a monthly price of 49.00 and, when a meter is given, a metered one: 10 included, 5 cents above.
    pub async fn prices(&self, meter: Option<&str>) -> Vec<String> {
        let product = self.made("/v1/products", &[("name", "Team")]).await["id"].as_str().unwrap().to_owned();
        let mut prices = vec![
            self.made(
                "/v1/prices",
                &[
                    ("product", product.as_str()),
                    ("currency", "eur"),
                    ("unit_amount", "4900"),
                    ("recurring[interval]", "month"),
                ],
            )
            .await,
        ];
        if let Some(meter) = meter {
            let metered = [
                ("product", product.as_str()),
                ("currency", "eur"),
                ("billing_scheme", "tiered"),
                ("tiers_mode", "graduated"),
                ("tiers[0][up_to]", "10"),
                ("tiers[0][unit_amount]", "0"),
                ("tiers[1][up_to]", "inf"),
                ("tiers[1][unit_amount]", "5"),
                ("recurring[interval]", "month"),
                ("recurring[usage_type]", "metered"),
                ("recurring[meter]", meter),
            ];
            prices.push(self.made("/v1/prices", &metered).await);
        }
        prices.iter().map(|price| price["id"].as_str().unwrap().to_owned()).collect()
    }

    /// A Checkout session for these prices; the first has a quantity.
    pub async fn checkout(&self, customer: &str, prices: &[String]) -> Value {
        let mut asked = vec![
            ("mode".to_owned(), "subscription".to_owned()),
            ("customer".to_owned(), customer.to_owned()),
            ("success_url".to_owned(), "http://localhost/done?session={CHECKOUT_SESSION_ID}".to_owned()),
            ("cancel_url".to_owned(), "http://localhost/back".to_owned()),
            ("line_items[0][quantity]".to_owned(), "1".to_owned()),
        ];
        for (at, price) in prices.iter().enumerate() {
            asked.push((format!("line_items[{at}][price]"), price.clone()));
        }
        let asked: Vec<(&str, &str)> =
            asked.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.made("/v1/checkout/sessions", &asked).await
    }

    /// A customer with an active subscription, bought with this card. Gives both ids.
    pub async fn subscribed(&self, prices: &[String], card: Card) -> (String, String) {
        let customer = self.customer().await;
        let session = self.checkout(&customer, prices).await;
        let session = self.stripe.checkout_complete(session["id"].as_str().unwrap(), card);
        (customer, session["subscription"].as_str().unwrap().to_owned())
    }

    pub fn status(&self, id: &str) -> String {
        self.stripe.object(id).unwrap()["status"].as_str().unwrap().to_owned()
    }
}

pub fn event<'a>(customer: &'a str, value: &'a str, identifier: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("event_name", "tasks"),
        ("payload[stripe_customer_id]", customer),
        ("payload[value]", value),
        ("identifier", identifier),
    ]
}

pub fn code(said: &Said) -> (u16, &str) {
    (said.0, said.1["error"]["code"].as_str().unwrap_or_default())
}

/// A list's ids.
pub fn ids(list: &Value) -> Vec<String> {
    let rows = list["data"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}
