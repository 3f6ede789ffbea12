package main

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// What Go's client, unlike a better one, does not put up with: it ends at message numbers that it does not know, where
// RFC 4253 section 11.4 wants UNIMPLEMENTED, and it never answers a request that it does not know.
var beyondGoClient = []string{"unknown-messages", "unknown-requests"}

// Each mode begins, acts when a client comes as far as it lets it, and takes nothing else down.
func TestEveryHostileModeActs(t *testing.T) {
	_, ports, _ := startServices(t)
	for _, m := range hostileModes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			rec, url, print := startServer(t, func(o *options) { o.hostile = m.name })
			r, err := parseRemote("R:0:" + ports["mute"])
			if err != nil {
				t.Fatal(err)
			}
			_, j := newRecord(t)
			c := &client{url: url, fingerprint: print, auth: "user:pass:word", remotes: []remote{r}, journal: j}
			ended := make(chan error, 1)
			go func() {
				// Not waited for: replies that nobody asked for block Go's client for good.
				ended <- c.run()
			}()
			t.Cleanup(func() {
				if t.Failed() && len(ended) > 0 {
					t.Logf("Go's client ended: %v", <-ended)
				}
			})
			rec.next("hostile", facts{"mode": m.name})
			if m.raw != nil && m.stage != "handshake" {
				rec.next("hostile", facts{"mode": m.name, "step": "act"})
				rec.next("hostile", facts{"mode": m.name, "step": "end"})
			}
			demanding := slices.Contains(beyondGoClient, m.name)
			if m.act != nil && m.expect == expectRefuse && !demanding {
				rec.next("hostile", facts{"mode": m.name, "step": "end"})
			}
			select {
			case err := <-ended:
				if m.expect == expectCarryOn && !demanding {
					t.Errorf("Go's client ended: %v", err)
				}
			case <-time.After(300 * time.Millisecond):
			}
		})
	}
}

func TestModesAreDescribed(t *testing.T) {
	var names []string
	for _, m := range hostileModes {
		if m.name == "" || m.does == "" || m.stage == "" ||
			!slices.Contains([]string{expectEnd, expectRefuse, expectCarryOn, expectBounded}, m.expect) {
			t.Errorf("incomplete: %+v", m)
		}
		if slices.Contains(names, m.name) {
			t.Errorf("%s stands twice", m.name)
		}
		names = append(names, m.name)
	}
	if _, err := findMode("no-such-mode"); err == nil {
		t.Error("an unknown mode was found")
	}
}

// The raw transport is a correct peer as long as its mode lets it: with each of its ciphers, and over many key
// exchanges that the client begins.
func TestRawTransportWithEveryCipher(t *testing.T) {
	for name := range cipherKinds {
		for mac := range macKinds {
			t.Run(name+" "+mac, func(t *testing.T) {
				t.Parallel()
				_, url, print := startServer(t, func(o *options) { o.hostile = "ignore-flood" })
				c := &client{url: url, fingerprint: print}
				conn := rawDial(t, c, ssh.Config{Ciphers: []string{name}, MACs: []string{mac}, RekeyThreshold: 4096})
				defer conn.Close()
				ok, reason, err := conn.SendRequest("config", true, []byte(`{"Version":"0","Remotes":[]}`))
				if !ok || err != nil {
					t.Fatalf("configuration: %v %s %v", ok, reason, err)
				}
				for range 200 {
					if _, answer, err := conn.SendRequest("ping", true, make([]byte, 500)); err != nil || string(answer) != "pong" {
						t.Fatalf("ping: %q, %v", answer, err)
					}
				}
			})
		}
	}
}
