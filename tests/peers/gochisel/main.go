// Gochisel is a peer for tests: the server and the client side of the protocol chisel-v3, on the SSH and WebSocket
// code that chisel itself runs on, a server that misbehaves on request, and the TCP services that a user has behind
// a tunnel.
//
// Server, client and services run until its standard input ends, so that a test that dies never leaves one
// behind, and report what happens as one JSON object per line on standard output.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

// A command takes the arguments after its name and returns when it is done.
type command func(args []string) error

var commands = map[string]command{
	"server":   runServer,
	"client":   runClient,
	"services": runServices,
	"load":     runLoad,
	"mix":      runMix,
	"leash":    runLeash,
	"link":     runLink,
	"modes":    runModes,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gochisel server|client|services|load|mix|leash|link|modes [flags]; -h after the command shows its flags")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "gochisel %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// runModes prints every hostile mode as one JSON object per line, so that a test suite can walk them all.
func runModes(args []string) error {
	flags := flag.NewFlagSet("modes", flag.ExitOnError)
	if err := flags.Parse(args); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for _, m := range hostileModes {
		if err := out.Encode(map[string]string{"mode": m.name, "stage": m.stage, "expect": m.expect, "does": m.does}); err != nil {
			return err
		}
	}
	return nil
}
