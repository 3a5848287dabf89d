--! exit: 1
--! stderr: an error value was raised: 
-- Anything may be raised.
error({ 1, 2, 3 })
