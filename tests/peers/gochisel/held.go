package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// idle opens connections, says so in one line, holds them, and counts those that are still alive.
func (l *load) idle(result facts) error {
	conns := make([]net.Conn, l.conns)
	message, back := l.message()
	for n := range conns {
		conn, err := l.dial(n, 'E', 0)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := echo(conn, message, back); err != nil {
			return err
		}
		conns[n] = conn
	}
	if l.use > 0 {
		if err := l.useAll(conns); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(facts{"event": "open", "conns": len(conns)}); err != nil {
		return err
	}
	if l.hold > 0 {
		time.Sleep(l.hold)
	} else {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	alive := 0
	for _, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if echo(conn, message, back) == nil {
			alive++
		}
	}
	result["alive"] = alive
	if alive < len(conns) {
		return fmt.Errorf("%d of %d connections are dead", len(conns)-alive, len(conns))
	}
	return nil
}

// usedAtOnce is how many of the connections that are to be idle carry data at the same time before.
const usedAtOnce = 32

// useAll lets every connection carry l.use bytes there and back.
func (l *load) useAll(conns []net.Conn) error {
	var next atomic.Int64
	errs := make(chan error, usedAtOnce)
	for range usedAtOnce {
		go func() {
			var failed error
			for n := next.Add(1) - 1; failed == nil && int(n) < len(conns); n = next.Add(1) - 1 {
				sent := make(chan error, 1)
				go func() { sent <- push(conns[n], l.use, false) }()
				failed = errors.Join(pull(conns[n], l.use, false), <-sent)
			}
			errs <- failed
		}()
	}
	var all error
	for range usedAtOnce {
		all = errors.Join(all, <-errs)
	}
	return all
}
