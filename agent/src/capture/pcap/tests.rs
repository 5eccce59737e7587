//! Capture files of each kind -> the segments they must yield.

use super::*;
