//! Names that people choose: merchants, channels, principals, formats, rules.
//!
//! A name is checked once, where it comes in, and is safe in logs, file names, row keys and metrics ever after.
//! Refused: everything that is not `[a-z0-9][a-z0-9-]{0,62}`, and every name that looks like a card number.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: one DNS label, so that a name can always become one.
pub const MAX_NAME: usize = 63;

/// Why a text is no name. It never carries the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Empty, or longer than [`MAX_NAME`] bytes.
    Length,
    /// A byte outside `[a-z0-9-]`, or a hyphen in front.
    Alphabet,
    /// Digits that pass the Luhn check at a card number's length: cards do not come in by this door.
    LooksLikeCard,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "must have 1 to 63 characters",
            Self::Alphabet => "may hold only a-z, 0-9 and hyphens, and may not begin with a hyphen",
            Self::LooksLikeCard => "must not look like a card number",
        })
    }
}

impl std::error::Error for NameError {}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(NameError::Length);
    }
    if text.starts_with('-')
        || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err(NameError::Alphabet);
    }
    if crate::pan::holds_card_number(text) {
        return Err(NameError::LooksLikeCard);
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Accepts `[a-z0-9][a-z0-9-]{0,62}`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    )+};
}

names! {
    /// The isolation boundary: own keys, own token space, own channels.
    MerchantName,
    /// A payment acceptance channel of a merchant: web shop, till, call centre, marketplace.
    ChannelName,
    /// Who asks, as the policy names them.
    PrincipalName,
    /// A certificate authority whose certificates the policy accepts.
    AuthorityName,
    /// How tokens are made and which digits they keep, as the policy names it.
    FormatName,
    /// One line of the policy.
    RuleName,
    /// Whom cards may be sealed to, as the policy registers them.
    RecipientName,
    /// Where the server may send a request with a card in it, as its settings name it.
    DestinationName,
    /// A card network, such as `visa`.
    NetworkName,
    /// A payment processor, as the merchant names it.
    ProcessorName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_and_short_and_no_card() {
        for good in ["a", "0", "web-shop", "a--b-", &"x".repeat(63), "4111111111111112"] {
            assert!(MerchantName::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", NameError::Length),
            (&*"x".repeat(64), NameError::Length),
            ("-a", NameError::Alphabet),
            ("A", NameError::Alphabet),
            ("a_b", NameError::Alphabet),
            ("é", NameError::Alphabet),
            ("4111111111111111", NameError::LooksLikeCard),
            ("4111-1111-1111-1111", NameError::LooksLikeCard),
        ] {
            assert_eq!(MerchantName::parse(bad), Err(why), "{bad}");
        }
    }
}
