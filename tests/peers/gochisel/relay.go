package main

import (
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

// relay carries bytes between a channel and a connection until both directions have ended; it returns how many went
// into the channel and how many came out of it. With half, an end of data in one direction leaves the other open;
// without, the first end closes both, which is what chisel does.
func relay(channel ssh.Channel, conn net.Conn, half bool) (sent, received int64) {
	var both sync.WaitGroup
	var once sync.Once
	end := func() {
		once.Do(func() {
			_ = channel.Close()
			_ = conn.Close()
		})
	}
	both.Add(2)
	go func() {
		defer both.Done()
		n, err := io.Copy(channel, conn)
		sent = n
		if !half || err != nil || channel.CloseWrite() != nil {
			end()
		}
	}()
	go func() {
		defer both.Done()
		n, err := io.Copy(conn, channel)
		received = n
		closer, ok := conn.(interface{ CloseWrite() error })
		if !half || err != nil || !ok || closer.CloseWrite() != nil {
			end()
		}
	}()
	both.Wait()
	end()
	return sent, received
}
