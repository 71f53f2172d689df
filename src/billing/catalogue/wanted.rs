//! What has to be at Stripe for these plans to be sold, and what it takes to get there. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::billing::ledger::meters::MeterRow;
use crate::billing::stripe::{NewMeter, NewPrice, NewProduct};
use crate::control_plane::plans::{Plan, PlanMeter, Price, money_text};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// What kind of thing at Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Meter,
    Product,
    Price,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Product => "product",
            Self::Price => "price",
        }
    }
}

/// What a thing is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Meter(NewMeter),
    Product(NewProduct),
    /// The meter is ours, by id: where it is at Stripe is known once it is there.
    Price {
        new: NewPrice,
        meter: Option<(String, i64)>,
    },
}

/// One thing that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub kind: Kind,
    /// Ours: `plan:team`, `plan:team:monthly:4900:eur`, `meter:tasks_created`.
    pub name: String,
    /// For people.
    pub says: String,
    pub content: Content,
}

impl Wanted {
    /// Differs when the content does. What a meter is called does not matter: Stripe shows it to nobody who pays.
    pub fn hash(&self) -> Vec<u8> {
        let text = match &self.content {
            Content::Meter(new) => format!("{} {}", new.event_name, new.aggregation),
            content => format!("{content:?}"),
        };
        sha256(text.as_bytes())[..16].to_vec()
    }
}

/// The name of a plan's monthly price. With its amount: a price is never changed, only followed by another.
pub fn monthly_name(plan: &str, price: &Price) -> String {
    format!("plan:{plan}:monthly:{}:{}", price.monthly_minor, price.currency)
}

/// The name of what a plan charges for use.
pub fn metered_name(plan: &str, meter: &PlanMeter, currency: &str) -> String {
    format!("plan:{plan}:{}:{}:{}:{currency}", meter.meter, meter.included, meter.unit_price_minor)
}

/// The name of a meter.
pub fn meter_name(meter: &str) -> String {
    format!("meter:{meter}")
}

/// Everything, in the order in which it can be made: meters, products, prices.
///
/// # Errors
/// `bad_request` for a plan that charges for what is not counted.
pub fn wanted(plans: &[Plan], meters: &[MeterRow]) -> Result<Vec<Wanted>> {
    let mut all: Vec<Wanted> = meters.iter().map(meter).collect();
    for plan in plans {
        let Some(price) = &plan.price else { continue };
        all.push(product(&format!("plan:{}", plan.id), &plan.name));
        all.push(monthly(plan, price));
        for charged in &plan.meters {
            let meter = meters.iter().find(|meter| meter.id == charged.meter).ok_or_else(|| {
                Error::new(&codes::BAD_REQUEST)
                    .detail(format!("plan {} charges for {}, which is not counted", plan.id, charged.meter))
            })?;
            all.push(product(&format!("meter:{}", meter.id), &meter.name));
            all.push(metered(plan, price, charged, meter));
        }
    }
    all.sort_by_key(|wanted| wanted.kind);
    all.dedup_by(|a, b| (a.kind, &a.name) == (b.kind, &b.name));
    let mut seen = BTreeMap::new();
    all.retain(|wanted| seen.insert((wanted.kind, wanted.name.clone()), ()).is_none());
    Ok(all)
}

fn meter(meter: &MeterRow) -> Wanted {
    Wanted {
        kind: Kind::Meter,
        name: meter_name(&meter.id),
        says: format!("{} ({}), events {}", meter.name, meter.aggregation.as_str(), meter.event_name),
        content: Content::Meter(NewMeter {
            event_name: meter.event_name.clone(),
            display_name: meter.name.clone(),
            aggregation: meter.aggregation.as_str().to_owned(),
        }),
    }
}

/// The product's id at Stripe: ours, so that making it twice makes one.
fn product_id(name: &str) -> String {
    format!("freehold_{}", name.replace(':', "_"))
}

fn product(name: &str, title: &str) -> Wanted {
    Wanted {
        kind: Kind::Product,
        name: name.to_owned(),
        says: title.to_owned(),
        content: Content::Product(NewProduct { id: product_id(name), name: title.to_owned() }),
    }
}

fn monthly(plan: &Plan, price: &Price) -> Wanted {
    Wanted {
        kind: Kind::Price,
        name: monthly_name(&plan.id, price),
        says: format!("{} a month", money_text(price.monthly_minor, &price.currency)),
        content: Content::Price {
            new: NewPrice {
                product: product_id(&format!("plan:{}", plan.id)),
                lookup_key: format!("freehold:{}:monthly", plan.id),
                currency: price.currency.clone(),
                unit_minor: price.monthly_minor,
                meter: None,
            },
            meter: None,
        },
    }
}

fn metered(plan: &Plan, price: &Price, charged: &PlanMeter, meter: &MeterRow) -> Wanted {
    let unit = money_text(charged.unit_price_minor, &price.currency);
    Wanted {
        kind: Kind::Price,
        name: metered_name(&plan.id, charged, &price.currency),
        says: format!("{unit} for each {} over {}", meter.unit, charged.included),
        content: Content::Price {
            new: NewPrice {
                product: product_id(&format!("meter:{}", meter.id)),
                lookup_key: format!("freehold:{}:{}", plan.id, meter.id),
                currency: price.currency.clone(),
                unit_minor: charged.unit_price_minor,
                meter: None,
            },
            meter: Some((meter.id.clone(), charged.included)),
        },
    }
}

/// What is done with a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    /// Of a product: its name.
    Update,
    /// Of a price: another is made, and the old one stays for those who have it.
    Replace,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Replace => "replace",
        }
    }
}

/// What to do with a thing, given the hash of what is there. None: nothing.
///
/// # Errors
/// `state_conflict` for a meter that is not as it was: Stripe cannot change one, and its sums would change their meaning.
pub fn action(wanted: &Wanted, there: Option<&[u8]>) -> Result<Option<Action>> {
    match there {
        None => Ok(Some(Action::Create)),
        Some(hash) if hash == wanted.hash() => Ok(None),
        Some(_) => match wanted.kind {
            Kind::Product => Ok(Some(Action::Update)),
            Kind::Price => Ok(Some(Action::Replace)),
            Kind::Meter => Err(Error::new(&codes::STATE_CONFLICT)
                .detail(format!(
                    "{} is not as it was brought to Stripe, where a meter cannot be changed",
                    wanted.name
                ))
                .hint("give the new one another id")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::ledger::Aggregation;
    use crate::control_plane::plans::{SHIPPED, parse};

    fn meters() -> Vec<MeterRow> {
        ["seats", "tasks_created", "api_calls", "stored_bytes"]
            .iter()
            .map(|id| MeterRow {
                id: (*id).to_owned(),
                name: (*id).to_owned(),
                unit: "one".to_owned(),
                aggregation: Aggregation::Sum,
                event_name: format!("freehold_{id}"),
            })
            .collect()
    }

    #[test]
    fn the_shipped_plans_can_be_brought_to_stripe() {
        let plans = parse(SHIPPED).unwrap();
        let all = wanted(&plans, &meters()).unwrap();
        assert!(all.is_sorted_by_key(|wanted| wanted.kind), "what others need comes first");
        assert_eq!(all.iter().filter(|wanted| wanted.kind == Kind::Meter).count(), 4);
        let mut names: Vec<_> = all.iter().map(|wanted| (wanted.kind, &wanted.name)).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "each once");
        for wanted in &all {
            assert_eq!(action(wanted, Some(&wanted.hash())).unwrap(), None);
            assert_eq!(action(wanted, None).unwrap(), Some(Action::Create));
        }
    }

    #[test]
    fn another_amount_is_another_price_with_the_same_lookup_key() {
        let plans = parse(SHIPPED).unwrap();
        let mut dearer = plans.clone();
        let team = dearer.iter_mut().find(|plan| plan.id == "team").unwrap();
        team.price.as_mut().unwrap().monthly_minor += 100;
        let of = |plans: &[Plan]| -> Vec<Wanted> {
            let all = wanted(plans, &meters()).unwrap();
            all.into_iter().filter(|wanted| wanted.name.starts_with("plan:team:monthly")).collect()
        };
        let (old, new) = (of(&plans).remove(0), of(&dearer).remove(0));
        assert_ne!(old.name, new.name);
        let (Content::Price { new: old, .. }, Content::Price { new, .. }) = (old.content, new.content) else {
            panic!("prices")
        };
        assert_eq!(old.lookup_key, new.lookup_key);
    }

    #[test]
    fn a_meter_is_never_changed() {
        let mut changed = meters();
        changed[1].aggregation = Aggregation::Last;
        let (before, after) = (wanted(&[], &meters()).unwrap(), wanted(&[], &changed).unwrap());
        assert!(action(&after[1], Some(&before[1].hash())).is_err());
        let plans = parse(SHIPPED).unwrap();
        assert!(wanted(&plans, &[]).is_err(), "what is not counted is not charged");
    }
}
