package main

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Mixed load for as long as it is wanted: transfers both ways, chatter, short connections and refused ones, all at
// once. The way may break at any time; what breaks is counted and begun anew, and only wrong bytes are an error.
type mix struct {
	load, refused, half string
	size                int64
	ended               chan struct{}

	transfers, bytes, echoes, short, refusals, halves, broken, wrong atomic.Int64
}

const mixPause = 20 * time.Millisecond

func runMix(args []string) error {
	m := &mix{ended: make(chan struct{})}
	flags := flag.NewFlagSet("mix", flag.ExitOnError)
	flags.StringVar(&m.load, "a", "", "address of the load service, through the tunnel")
	flags.StringVar(&m.refused, "refused", "", "address of a forward whose target refuses")
	flags.StringVar(&m.half, "half", "", "address of the service halfclose; only a server that passes a half-close on serves it")
	flags.Int64Var(&m.size, "n", 4<<20, "bytes of each transfer, each way")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var all sync.WaitGroup
	workers := []func() error{m.transfer("down"), m.transfer("up"), m.transfer("both"), m.chatter, m.chatter, m.connection, m.connection}
	if m.refused != "" {
		workers = append(workers, m.refusal)
	}
	if m.half != "" {
		workers = append(workers, m.halfClose)
	}
	for _, work := range workers {
		all.Add(1)
		go func() {
			defer all.Done()
			m.repeat(work)
		}()
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(facts{"event": "begun"}); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(m.ended)
	all.Wait()
	return out.Encode(facts{
		"event": "figures", "transfers": m.transfers.Load(), "bytes": m.bytes.Load(), "echoes": m.echoes.Load(),
		"short": m.short.Load(), "refused": m.refusals.Load(), "halves": m.halves.Load(), "broken": m.broken.Load(),
		"wrong": m.wrong.Load(),
	})
}

func (m *mix) over() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// repeat does the work again and again until all is to end.
func (m *mix) repeat(work func() error) {
	for !m.over() {
		if err := work(); errors.Is(err, errSum) {
			m.wrong.Add(1)
		} else if err != nil {
			m.broken.Add(1)
			time.Sleep(10 * mixPause)
		}
		time.Sleep(mixPause)
	}
}

func (m *mix) transfer(mode string) func() error {
	l := load{mode: mode, addrs: []string{m.load}, check: true}
	return func() error {
		err := l.transfer(0, m.size)
		if err == nil {
			m.transfers.Add(1)
			m.bytes.Add(m.size)
		}
		return err
	}
}

// echo connects, and sends count messages with a pause between them.
func (m *mix) echo(count int) error {
	l := load{addrs: []string{m.load}, size: 64}
	conn, err := l.dial(0, 'E', 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	message, back := l.message()
	for n := 0; n < count && !m.over(); n++ {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if err := echo(conn, message, back); err != nil {
			return err
		}
		m.echoes.Add(1)
		time.Sleep(mixPause / 4)
	}
	return nil
}

func (m *mix) chatter() error { return m.echo(2000) }

func (m *mix) connection() error {
	err := m.echo(1)
	if err == nil {
		m.short.Add(1)
	}
	return err
}

// refusal connects to what refuses: the connection ends, without a byte.
func (m *mix) refusal() error {
	conn, err := net.Dial("tcp", m.refused)
	if err != nil {
		return err
	}
	defer conn.Close()
	if n, _ := conn.Read(make([]byte, 1)); n > 0 {
		return errSum
	}
	m.refusals.Add(1)
	return nil
}

// halfClose sends, closes its half, and expects the answer that comes only then.
func (m *mix) halfClose() error {
	conn, err := net.Dial("tcp", m.half)
	if err != nil {
		return err
	}
	defer conn.Close()
	const size = 300_000
	if err := push(conn, size, false); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) == 0 {
		return errors.New("cut off")
	}
	if !strings.HasPrefix(string(answer), "300000 bytes sha256 ") {
		return errSum
	}
	m.halves.Add(1)
	return nil
}
