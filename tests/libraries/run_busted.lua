#!/usr/bin/env yue
-- Runs busted; its options are this program's.
arg = yue.args
require 'busted.runner' { standalone = false }
