//! The serialized form of settings: `"none"` for no limit and `"off"` for a disabled part.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// A limit: `"250ms"`, or `"none"`.
#[cfg(feature = "http")]
pub(crate) mod limit {
    use std::time::Duration;

    use humantime_serde::Serde;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(limit: &Duration, to: S) -> Result<S::Ok, S::Error> {
        if *limit == Duration::MAX {
            to.serialize_str("none")
        } else {
            Serde::from(*limit).serialize(to)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        if text == "none" {
            return Ok(Duration::MAX);
        }
        let text = serde::de::value::StringDeserializer::<D::Error>::new(text);
        Serde::deserialize(text)
            .map(Serde::into_inner)
            .map_err(|error| D::Error::custom(format_args!("{error}, or \"none\"")))
    }
}

/// A part that can be disabled: its settings, or `"off"`, `false` or null. TOML has no null.
pub(crate) mod off {
    use super::{Deserialize, Deserializer, OrOff, PhantomData, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "what serde calls")]
    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        part: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match part {
            Some(part) => part.serialize(to),
            None => to.serialize_str("off"),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        from.deserialize_any(OrOff(PhantomData))
    }
}

/// A duration, or `"off"`.
pub(crate) mod off_duration {
    use std::time::Duration;

    use humantime_serde::Serde;
    use serde::de::Deserializer;
    use serde::ser::Serializer;

    use super::off;

    #[expect(clippy::ref_option, reason = "what serde calls")]
    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        off::serialize(&time.map(Serde::from), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let time: Option<Serde<Duration>> = off::deserialize(from)?;
        Ok(time.map(Serde::into_inner))
    }
}

struct OrOff<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrOff<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings, or \"off\"")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Option<T>, E> {
        if on {
            T::deserialize(on.into_deserializer()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
        if text == "off" {
            Ok(None)
        } else {
            T::deserialize(text.into_deserializer()).map(Some)
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Option<T>, E> {
        T::deserialize(number.into_deserializer()).map(Some)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<T>, E> {
        T::deserialize(number.into_deserializer()).map(Some)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Option<T>, E> {
        T::deserialize(number.into_deserializer()).map(Some)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Option<T>, D::Error> {
        from.deserialize_any(self)
    }
}
