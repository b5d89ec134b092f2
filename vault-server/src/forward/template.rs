//! A request with tokens in it, and the same request with cards in their place.
//!
//! A placeholder is `{{ token:TOKEN | FIELD }}` in the body or in a header's value. Refused: any other use of `{{`, a
//! request without a placeholder (this is no way around a firewall), placeholders and card numbers in the path (paths end
//! up in logs), headers that frame a message or speak for the connection, and all that is not one line of visible ASCII
//! in a header: so nobody puts a second header, or a second request, into one.

use http::{HeaderName, HeaderValue, Method};
use ring::digest;
use vault_core::error::Error;
use vault_core::name::DestinationName;
use vault_core::pan::{CardExpiry, Pan, holds_card_number};
use vault_core::token::Token;
use vault_proto::v1;
use zeroize::Zeroizing;

use crate::wire;

/// Placeholders in one request. A card takes five.
pub const MAX_PLACEHOLDERS: usize = 64;
/// Distinct tokens in one request: each is a disclosure of its own.
pub const MAX_TOKENS: usize = 16;
/// Headers of one request.
pub const MAX_HEADERS: usize = 32;
/// Bytes of a header's value, and of the path.
pub const MAX_LINE: usize = 4_096;
/// Bytes between `{{` and `}}`: the longest token, the longest field and white space.
const MAX_PLACEHOLDER: usize = 96;

/// Headers that are the connection's own, or the proxy's to set. Others that begin with `proxy-` are refused as well.
const OURS: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "forwarded",
];

/// What of a card a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Number,
    FirstSix,
    LastFour,
    ExpiryMonth,
    ExpiryYear,
    ExpiryYearOfCentury,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "number" => Self::Number,
            "first_six" => Self::FirstSix,
            "last_four" => Self::LastFour,
            "expiry_mm" => Self::ExpiryMonth,
            "expiry_yyyy" => Self::ExpiryYear,
            "expiry_yy" => Self::ExpiryYearOfCentury,
            _ => return None,
        })
    }

    /// Puts it into `to`; whether the card has it.
    fn put(self, card: &Card, to: &mut Vec<u8>) -> bool {
        let date = |to: &mut Vec<u8>, of: fn(CardExpiry) -> String| match card.expiry {
            Some(expiry) => {
                to.extend_from_slice(of(expiry).as_bytes());
                true
            }
            None => false,
        };
        match self {
            Self::Number => to.extend_from_slice(card.pan.expose_digits()),
            Self::FirstSix => to.extend_from_slice(card.pan.bin6().as_bytes()),
            Self::LastFour => to.extend_from_slice(card.pan.last_four().as_bytes()),
            Self::ExpiryMonth => return date(to, |e| format!("{:02}", e.month())),
            Self::ExpiryYear => return date(to, |e| format!("{:04}", e.year())),
            Self::ExpiryYearOfCentury => return date(to, |e| format!("{:02}", e.year() % 100)),
        }
        true
    }
}

/// A card, opened for a destination.
pub struct Card {
    /// Its number.
    pub pan: Pan,
    /// Its date, if it is known.
    pub expiry: Option<CardExpiry>,
}

/// SHA-256 over method, path, headers in their order, and body, each with its length before it.
fn hash(method: &Method, path: &str, headers: &[v1::HttpHeader], body: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |part: &[u8]| {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    };
    add(method.as_str().as_bytes());
    add(path.as_bytes());
    for v1::HttpHeader { name, value } in headers {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(body);
    context.finish().as_ref().try_into().unwrap_or([0; 32])
}

/// A text with holes.
struct Holed(Vec<Piece>);

enum Piece {
    Text(Vec<u8>),
    /// Which token, and what of its card.
    Hole(usize, Part),
}

/// A request that may be filled in.
pub struct Template {
    /// Where it goes.
    pub destination: DestinationName,
    /// How.
    pub method: Method,
    /// Path and query.
    pub path: String,
    headers: Vec<(HeaderName, Holed)>,
    body: Holed,
    tokens: Vec<Token>,
    length: usize,
    hash: [u8; 32],
}

/// A request with cards in it. Its body is wiped when it is dropped, wherever it went.
pub struct Filled {
    /// Its headers, values marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Zeroizing<Vec<u8>>,
}

fn wrong<T>(field: &'static str, rule: &'static str) -> Result<T, Error> {
    Err(Error::malformed(field, rule))
}

impl Template {
    /// Reads a request.
    pub fn parse(request: v1::ForwardRequest) -> Result<Self, Error> {
        let v1::ForwardRequest { header: _, destination, method, path, headers, body } = request;
        let destination = wire::destination(&destination)?;
        let method = match method.as_str() {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            _ => return wrong("method", "must be POST, PUT or PATCH"),
        };
        check_path(&path)?;
        if headers.len() > MAX_HEADERS {
            return wrong("headers", "must be at most 32");
        }
        let length = body.len();
        let hash = hash(&method, &path, &headers, &body);
        let (mut tokens, mut holes) = (Vec::new(), 0);
        let mut read = Vec::with_capacity(headers.len());
        for v1::HttpHeader { name, value } in headers {
            let name = header_name(&name)?;
            let visible = |b: u8| b == b' ' || b.is_ascii_graphic();
            if value.len() > MAX_LINE || !value.bytes().all(visible) || value.trim() != value {
                return wrong("headers.value", "must be at most 4,096 visible ASCII characters");
            }
            read.push((name, Holed::parse(value.as_bytes(), "headers.value", &mut tokens, &mut holes)?));
        }
        let body = Holed::parse(&body, "body", &mut tokens, &mut holes)?;
        if holes == 0 {
            return wrong("body", "must hold a placeholder, here or in a header: {{ token:TOKEN | number }}");
        }
        Ok(Self { destination, method, path, headers: read, body, tokens, length, hash })
    }

    /// The tokens whose cards it needs, each once.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    /// SHA-256 of it, before it is filled in: tells it from any other request to its destination.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Bytes of its body, before it is filled in; it never grows by that.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts the cards in, in the order of [`tokens`](Self::tokens).
    pub fn fill(&self, cards: &[Card]) -> Result<Filled, Error> {
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let filled = value.fill(cards, MAX_LINE)?;
            let mut value = HeaderValue::from_bytes(&filled).map_err(|_| Error::internal())?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
        Ok(Filled { headers, body: self.body.fill(cards, self.length)? })
    }
}

fn check_path(path: &str) -> Result<(), Error> {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>' | b'{' | b'}');
    if !path.starts_with('/') || path.len() > MAX_LINE || !path.bytes().all(plain) {
        return wrong(
            "path",
            "must begin with / and hold at most 4,096 characters of a URL, without a fragment",
        );
    }
    // What a server may read as another path than the one that was allowed.
    let lower = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    if lower.contains("//")
        || lower.contains("..")
        || ["%2e", "%2f", "%5c", "%25", "%00"].iter().any(|e| lower.contains(e))
    {
        return wrong("path", "must not hold // or .., written out or encoded");
    }
    if holds_card_number(path) {
        return wrong("path", "must not hold a card number");
    }
    Ok(())
}

fn header_name(text: &str) -> Result<HeaderName, Error> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return wrong("headers.name", "must be a header's name");
    };
    if OURS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
        return wrong("headers.name", "must not be one that frames the message or speaks for the connection");
    }
    Ok(name)
}

impl Holed {
    fn parse(
        text: &[u8],
        field: &'static str,
        tokens: &mut Vec<Token>,
        holes: &mut usize,
    ) -> Result<Self, Error> {
        const RULE: &str = "holds {{ that is no placeholder: {{ token:TOKEN | FIELD }}, FIELD being number, first_six, last_four, expiry_mm, expiry_yy or expiry_yyyy";
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = find(rest, b"{{") {
            let (before, from) = rest.split_at_checked(at).ok_or_else(Error::internal)?;
            let inner = from.get(2..).unwrap_or_default();
            let end = find(inner.get(..inner.len().min(MAX_PLACEHOLDER)).unwrap_or_default(), b"}}");
            let (inner, after) = end
                .and_then(|end| Some((inner.get(..end)?, inner.get(end + 2..)?)))
                .ok_or_else(|| Error::malformed(field, RULE))?;
            let (token, part) = placeholder(inner).ok_or_else(|| Error::malformed(field, RULE))?;
            let known = tokens.iter().position(|known| known.same_as(&token));
            let place = known.unwrap_or(tokens.len());
            if known.is_none() {
                tokens.push(token);
            }
            *holes += 1;
            if *holes > MAX_PLACEHOLDERS || tokens.len() > MAX_TOKENS {
                return wrong(field, "must hold at most 64 placeholders and 16 tokens");
            }
            pieces.push(Piece::Text(before.to_vec()));
            pieces.push(Piece::Hole(place, part));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_vec()));
        Ok(Self(pieces))
    }

    /// `room`: what it has at most. What a placeholder stands for is shorter than the placeholder.
    fn fill(&self, cards: &[Card], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut filled = Zeroizing::new(Vec::with_capacity(room)); // never outgrown: card numbers are written into it
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.extend_from_slice(text),
                Piece::Hole(place, part) => {
                    let card = cards.get(*place).ok_or_else(Error::internal)?;
                    if !part.put(card, &mut filled) {
                        return wrong("body", "asks for the date of a card that has none");
                    }
                }
            }
        }
        Ok(filled)
    }
}

fn placeholder(inner: &[u8]) -> Option<(Token, Part)> {
    let text = std::str::from_utf8(inner).ok()?;
    let (token, part) = text.trim().strip_prefix("token:")?.split_once('|')?;
    Some((Token::parse(token.trim()).ok()?, Part::parse(part.trim())?))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "tok_0123456789012345678901";
    const OTHER: &str = "tok_0123456789012345678902";

    fn request(body: &str) -> v1::ForwardRequest {
        v1::ForwardRequest {
            header: None,
            destination: "psp".into(),
            method: "POST".into(),
            path: "/v1/charges?dry=1".into(),
            headers: vec![v1::HttpHeader { name: "Content-Type".into(), value: "application/json".into() }],
            body: body.into(),
        }
    }

    fn card(digits: &str) -> Card {
        let Ok(pan) = Pan::parse(digits.as_bytes()) else { panic!("{digits}") };
        Card { pan, expiry: Some(CardExpiry::new(2031, 4).unwrap()) }
    }

    fn told(request: v1::ForwardRequest) -> String {
        match Template::parse(request) {
            Err(Error::Malformed { field, .. }) => field.to_owned(),
            Err(other) => other.to_string(),
            Ok(_) => "taken".to_owned(),
        }
    }

    #[test]
    fn a_card_stands_where_its_placeholders_stood() {
        let body = format!(
            "{{\"n\":\"{{{{token:{TOKEN}|number}}}}\",\"l\":\"{{{{ token:{TOKEN} | last_four }}}}\",\
             \"f\":\"{{{{ token:{OTHER} | first_six }}}}\",\"e\":\"{{{{token:{TOKEN}|expiry_mm}}}}/{{{{token:{TOKEN}|expiry_yy}}}} \
             {{{{token:{TOKEN}|expiry_yyyy}}}}\"}}"
        );
        let mut asked = request(&body);
        asked.headers.push(v1::HttpHeader {
            name: "X-Card".into(),
            value: format!("a {{{{ token:{OTHER} | number }}}}"),
        });
        let template = Template::parse(asked).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(template.tokens().map(Token::as_str).collect::<Vec<_>>(), [OTHER, TOKEN]);
        let filled = template.fill(&[card("5555555555554444"), card("4111111111111111")]);
        let filled = filled.unwrap_or_else(|e| panic!("{e}"));
        let text = std::str::from_utf8(&filled.body).unwrap();
        assert_eq!(text, r#"{"n":"4111111111111111","l":"1111","f":"555555","e":"04/31 2031"}"#);
        assert!(filled.body.len() <= template.length() && filled.body.capacity() == template.length());
        let header = &filled.headers[1];
        assert_eq!((header.0.as_str(), header.1.as_bytes()), ("x-card", b"a 5555555555554444".as_slice()));
        assert!(header.1.is_sensitive());
        let undated = Card { expiry: None, ..card("4111111111111111") };
        assert!(template.fill(&[card("5555555555554444"), undated]).is_err());
    }

    #[test]
    fn whatever_is_no_template_is_refused_by_its_field() {
        let good = format!("{{{{token:{TOKEN}|number}}}}");
        assert_eq!(told(request(&good)), "taken");
        for body in [
            "no placeholder",
            "{{",
            "{{}}",
            "{{ number }}",
            "{{ token:4111111111111111 | number }}",
            "{{ token:tok_0123456789012345678901 }}",
            "{{ token:tok_0123456789012345678901 | cvv }}",
            "{{ token:tok_0123456789012345678901 | number",
            "{{{ token:tok_0123456789012345678901 | number }}}",
        ] {
            assert_eq!(told(request(body)), "body", "{body}");
        }
        assert_eq!(told(request(&good.repeat(MAX_PLACEHOLDERS + 1))), "body");
        let many: Vec<String> = (0..=MAX_TOKENS)
            .map(|n| format!("{{{{token:tok_00000000000000000000{n:02}|number}}}}"))
            .collect();
        let many = many.concat();
        assert_eq!(told(request(&many)), "body");
        for method in ["", "GET", "CONNECT", "post", "POST /x HTTP/1.1\r\n"] {
            assert_eq!(told(v1::ForwardRequest { method: method.into(), ..request(&good) }), "method");
        }
        for path in [
            "",
            "v1",
            "https://elsewhere/",
            "/a b",
            "/a\r\nx: y",
            "/a#b",
            "/../x",
            "/a/%2E%2e/x",
            "//elsewhere",
            "/a%2fb",
            "/\u{e4}",
            "/%00",
            "/cards/4111111111111111",
            "/?n=4111-1111-1111-1111",
            &format!("/{}", "a".repeat(MAX_LINE)),
            "/{{token:tok_0123456789012345678901|number}}",
        ] {
            assert_eq!(told(v1::ForwardRequest { path: path.into(), ..request(&good) }), "path", "{path}");
        }
        for (name, value, field) in [
            ("", "x", "headers.name"),
            ("a b", "x", "headers.name"),
            ("a:", "x", "headers.name"),
            ("a\r\nb", "x", "headers.name"),
            ("Host", "elsewhere", "headers.name"),
            ("content-length", "1", "headers.name"),
            ("Transfer-Encoding", "chunked", "headers.name"),
            ("connection", "upgrade", "headers.name"),
            ("accept-encoding", "gzip", "headers.name"),
            ("Proxy-Authorization", "x", "headers.name"),
            ("x", "a\r\nHost: elsewhere", "headers.value"),
            ("x", "a\nb", "headers.value"),
            ("x", "a\0b", "headers.value"),
            ("x", " a", "headers.value"),
            ("x", "{{ a }}", "headers.value"),
            ("x", "\u{e4}", "headers.value"),
        ] {
            let headers = vec![v1::HttpHeader { name: name.into(), value: value.into() }];
            assert_eq!(told(v1::ForwardRequest { headers, ..request(&good) }), field, "{name}: {value}");
        }
        let headers = vec![v1::HttpHeader { name: "x".into(), value: "y".into() }; MAX_HEADERS + 1];
        assert_eq!(told(v1::ForwardRequest { headers, ..request(&good) }), "headers");
        for destination in ["", "PSP", "https://elsewhere", "4111111111111111"] {
            let asked = v1::ForwardRequest { destination: destination.into(), ..request(&good) };
            assert_eq!(told(asked), "destination", "{destination}");
        }
    }
}
