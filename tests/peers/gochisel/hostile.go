package main

import (
	"fmt"
	"net/http"

	"golang.org/x/crypto/ssh"
)

// What a good client does about a mode.
const (
	expectEnd     = "end"      // ends the connection with an error that says why, and tries again later
	expectRefuse  = "refuse"   // turns down what is asked; the session and its other channels stay
	expectCarryOn = "carry-on" // nothing: it is odd but allowed, and everything works
	expectBounded = "bounded"  // ends the connection or the channel, or ignores it; never hangs, grows or fails with a traceback
)

// hostileMode is one way to misbehave. Of the hooks at most a few are set; all others behave. A mode with raw or
// quirks runs on the raw transport, which accepts every configuration and listens nowhere; the others keep their
// ports bound, so that a test can see whether the session still works.
type hostileMode struct {
	name, stage, expect, does string

	frozen        bool // traffic stops before the first byte
	http          func(*server, http.ResponseWriter, *http.Request)
	upgradeHeader http.Header
	carrier       func(*session) error // instead of SSH, on the upgraded connection
	tune          func(*session, *ssh.ServerConfig) ssh.Signer
	onLogin       func(*session) error
	onConnected   func(*session) error
	onConfig      func(*session, *ssh.Request) (handled bool, err error)
	oddReply      []byte // payload of the configuration's acceptance
	deafToPings   bool
	refusesPings  bool
	act           func(*session) // after the configuration

	quirks rawQuirks
	raw    func(*rawSession) error
}

// hostileModes are all modes, in the order of the stages that a connection goes through.
var hostileModes = concat(httpModes, carrierModes, handshakeModes, configModes, channelModes, rawModes)

func concat(lists ...[]hostileMode) []hostileMode {
	var all []hostileMode
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func findMode(name string) (hostileMode, error) {
	for _, m := range hostileModes {
		if m.name == name {
			return m, nil
		}
	}
	return hostileMode{}, fmt.Errorf("no hostile mode %q; `gochisel modes` lists them", name)
}

// handshakeOnly is the act of modes whose work is done before the configuration.
func handshakeOnly(*rawSession) error { return nil }
