// Package temporalkit is how katoflow's two programs talk to Temporal: client and worker options, search attributes, logging, the payload
// converter, heartbeats. It reads neither flags nor the environment; the main packages hand in what they have read.
package temporalkit
