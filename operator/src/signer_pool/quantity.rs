//! Quantities of Kubernetes, such as `1900m` and `8Gi`.

/// The quantity in thousandths, rounded down; `None` if it is none.
/// Source: k8s.io/apimachinery, package `api/resource`, without exponents.
pub fn milli(text: &str) -> Option<i128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    value.checked_mul(numerator)?.checked_div(denominator.checked_mul(scale)?)
}

/// The quantity in MiB, rounded down.
pub fn mebi(text: &str) -> Option<i64> {
    i64::try_from(milli(text)? / (1_000 << 20)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nodes_report() {
        assert_eq!(milli("1900m"), Some(1900));
        assert_eq!(milli("2"), Some(2000));
        assert_eq!(milli("1.5"), Some(1500));
        assert_eq!(mebi("8Gi"), Some(8192));
        assert_eq!(mebi("24604588Ki"), Some(24027));
        assert_eq!(mebi("268435456"), Some(256));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in
            ["", "m", "1e3", "1.2.3", "-1", "12Qi", "99999999999999999999999999999999999999Ti"]
        {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
