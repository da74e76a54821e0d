"""From a table to a published version: plan, table, schema, net, fit, evaluate, export, prove, publish."""
