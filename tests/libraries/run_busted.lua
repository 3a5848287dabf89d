#!/usr/bin/env yue
-- Runs busted; its options are this program's.
require 'busted.runner' { standalone = false }
