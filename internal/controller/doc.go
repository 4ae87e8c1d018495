// Package controller asks the Cloud Controller of an ALS or Stackato cluster (API v2 with Stackato's own additions, kato.md §6).
//
// A [Client] logs in when it needs to: the token endpoint is the one that /v2/info names (AOK), the grant is an admin's password with the
// client "cf" and no secret, as Stackato's and Cloud Foundry's own clients do. A token that expires is renewed with its refresh token, and
// with the password where that is refused. Nothing is asked of the network before the first call.
//
// Every failure is an [*Error] of one [Kind]. What may go well at another time (502, 503, a router that knows no controller, a reset or refused
// connection, no answer in time) is tried again a bounded number of times first, requests that may be repeated only; maintenance mode (HTTP 503 with code 150, kato.md
// §4) is told apart from that and not retried. No password, token or query is in any error or log.
//
// Lists are read to their end in pages of 100. A list that changes while it is read shows by its number of entries and is read again;
// one entry deleted and another added at the same moment can go unnoticed, so that an exact answer needs maintenance mode.
package controller
