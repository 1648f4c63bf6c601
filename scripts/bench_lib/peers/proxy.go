// Go's ReverseProxy, tuned: buffers are pooled, connections are kept, chunks are flushed at once.
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

func main() {
	target, err := url.Parse("http://127.0.0.1:" + os.Args[2])
	if err != nil {
		panic(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.BufferPool = &buffers{sync.Pool{New: func() any { b := make([]byte, 32*1024); return &b }}}
	proxy.Transport = &http.Transport{
		MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	}
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], proxy))
}
