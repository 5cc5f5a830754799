//! What memcheck reports, as its XML says it. Protocol:
//! `docs/internals/xml-output-protocol4.txt` of valgrind; it writes one element a line.

use std::path::{Path, PathBuf};

/// One place where something depends on a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Such as `UninitCondition`, a branch, or `UninitValue`, an address.
    pub(crate) kind: String,
    /// Innermost first; what the compiler put into another function has a frame of its own.
    pub(crate) stack: Vec<Frame>,
}

/// One function call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its name, if known.
    pub(crate) function: String,
    /// Where it was compiled from, if known.
    pub(crate) file: PathBuf,
    /// Line there, from 1; 0 if unknown.
    pub(crate) line: usize,
}

/// All reports of a run.
pub(crate) fn parse(xml: &str) -> Vec<Report> {
    let mut reports = Vec::new();
    let (mut kind, mut stack, mut frame) = (None, Vec::new(), Frame::default());
    for line in xml.lines().map(str::trim) {
        match line {
            "<error>" => (kind, stack) = (None, Vec::new()),
            // What follows in the same report says where the value came from.
            "</stack>" => {
                if let Some(kind) = kind.take() {
                    reports.push(Report { kind, stack: std::mem::take(&mut stack) });
                }
            }
            "<frame>" => frame = Frame::default(),
            "</frame>" => stack.push(std::mem::take(&mut frame)),
            _ => {
                let of = |name| element(line, name);
                if let Some(text) = of("kind") {
                    kind = Some(text);
                } else if let Some(text) = of("fn") {
                    frame.function = text;
                } else if let Some(text) = of("dir") {
                    frame.file = Path::new(&text).join(&frame.file);
                } else if let Some(text) = of("file") {
                    frame.file.push(text);
                } else if let Some(text) = of("line") {
                    frame.line = text.parse().unwrap_or(0);
                }
            }
        }
    }
    reports
}

/// The text of an element that is a line of its own.
fn element(line: &str, name: &str) -> Option<String> {
    let text = line.strip_prefix(&format!("<{name}>"))?.strip_suffix(&format!("</{name}>"))?;
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "
<error>
  <unique>0x0</unique>
  <kind>UninitCondition</kind>
  <what>Conditional jump or move depends on uninitialised value(s)</what>
  <stack>
    <frame>
      <ip>0x1</ip>
      <fn>all&lt;u8&gt;</fn>
      <dir>/a/src</dir>
      <file>b.rs</file>
      <line>7</line>
    </frame>
    <frame>
      <ip>0x2</ip>
    </frame>
  </stack>
  <auxwhat>Uninitialised value was created by a heap allocation</auxwhat>
  <stack>
    <frame>
      <fn>malloc</fn>
    </frame>
  </stack>
</error>
<error>
  <kind>UninitValue</kind>
  <stack>
    <frame>
      <fn>f</fn>
      <file>g.c</file>
    </frame>
  </stack>
</error>
";

    #[test]
    fn a_report_is_its_kind_and_the_stack_where_it_happened() {
        let frame = |function: &str, file: &str, line| Frame {
            function: function.into(),
            file: file.into(),
            line,
        };
        let condition = [frame("all<u8>", "/a/src/b.rs", 7), Frame::default()];
        let expected =
            [("UninitCondition", condition.to_vec()), ("UninitValue", vec![frame("f", "g.c", 0)])]
                .map(|(kind, stack)| Report { kind: kind.into(), stack });
        assert_eq!(parse(XML), expected);
    }
}
