mod rig;
#[test]
fn smoke() {
    let rig = rig::Rig::new("smoke");
    println!("{:?}", rig.dataplane);
}
