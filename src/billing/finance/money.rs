//! Money as text. Everywhere else it is whole minor units of a currency.

/// Currencies whose minor unit is not a hundredth, as Stripe has them.
const NO_MINOR: [&str; 16] = [
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof",
    "xpf",
];
const THOUSANDTHS: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];

/// Digits behind the point.
pub fn digits(currency: &str) -> u32 {
    let currency = currency.to_ascii_lowercase();
    match currency.as_str() {
        none if NO_MINOR.contains(&none) => 0,
        three if THOUSANDTHS.contains(&three) => 3,
        _ => 2,
    }
}

/// An amount in major units, with a point and no separators, for files: `-12.05`.
pub fn major(minor: i64, currency: &str) -> String {
    let digits = digits(currency);
    let (sign, units) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    if digits == 0 {
        return format!("{sign}{units}");
    }
    let one = 10_u64.pow(digits);
    format!("{sign}{}.{:0width$}", units / one, units % one, width = digits as usize)
}

/// The same for people: `12.05 EUR`.
pub fn amount(minor: i64, currency: &str) -> String {
    format!("{} {}", major(minor, currency), currency.to_uppercase())
}

/// A whole number for people, in groups of three: `1,234,567`.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        for (minor, currency, text) in [
            (0, "eur", "0.00"),
            (5, "eur", "0.05"),
            (-1205, "USD", "-12.05"),
            (500, "jpy", "500"),
            (-7, "jpy", "-7"),
            (1234, "kwd", "1.234"),
            (i64::MIN, "eur", "-92233720368547758.08"),
        ] {
            assert_eq!(major(minor, currency), text, "{minor} {currency}");
        }
        assert_eq!(amount(4900, "eur"), "49.00 EUR");
    }

    #[test]
    fn long_numbers_are_readable() {
        let all = [0, 12, 123, 1234, -1234567].map(grouped);
        assert_eq!(all, ["0", "12", "123", "1,234", "-1,234,567"]);
    }
}
