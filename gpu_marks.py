p='kernels/cuda/source/step.cu'; s=open(p).read()
s=s.replace('#define MARK() if','#define MARK() if',1)
k=s.index('network_step(const __grid')
h,t=s[:k],s[k:]
def after(a,n=1):
    global t
    assert t.count(a)>=1,a
    t=t.replace(a,a+'            MARK();\n',n)
t=t.replace('    int place = 0, parity = 0;\n','    int place = 0, parity = 0;\n#ifdef TRACE\n    int marks = 1, tile = cluster;\n    if (threadIdx.x == 0 && blockIdx.x == 0) trace[0] = clock64();\n#endif\n')
t=t.replace('        const int vans = vans_of(p, tile);\n','        const int vans = vans_of(p, tile);\n            MARK();\n')
after('''        InProj in_proj(layers + (long long)rank * LAYER_FRAGMENTS * FRAGMENT);
        __syncthreads();
''')
after('''            in_proj.run(&s.x[0][0], MODEL_STRIDE, s.scratch, WIDE);
''')
after('''            XProj x_proj(weights);
            __syncthreads();
''')
after('''                convolve(s, p, window, table, layer, rank, vans, first);
            }
            __syncthreads();
''')
after('''s.scratch, PROJECTED_SUMS);
''')
after('''s.inbox[0], s.mail[0], parity, vans, rank);
''')
after('''            step_sizes(s, p, table, vans);
            __syncthreads();
''')
after('''table, decay, A, place, policy);
''')
after('''            OutProj out_proj(weights + PROJECTED_TILES * OWN_STEPS * FRAGMENT);
            __syncthreads();
''')
after('''            out_proj.run(&s.act[0][0], OWN_STRIDE, s.scratch, MODEL_SUMS);
''')
after('''            parity ^= 1;
''')
i=t.rindex('        __syncthreads();\n    }\n'); t=t[:i]+'        __syncthreads();\n            MARK();\n    }\n'+t[i+len('        __syncthreads();\n    }\n'):]
open(p,'w').write(h+t)
